"""Writes JSON schemas that kubeconform reads offline: Kubernetes' own from the wheel kubernetes-validate, and one for
each custom resource definition.

usage: schemas.py --out FOLDER --wheel WHEEL --crds FOLDER VERSION...
"""
import argparse
import json
import pathlib
import zipfile

import yaml

ROOT = "kubernetes_validate/kubernetes-json-schema/"


def write(path, schema):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(schema))


def kubernetes(wheel, versions, out):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = name.removeprefix(ROOT)
            if path == name or not path.endswith(".json") or not path.startswith(tuple(f"v{v}-local" for v in versions)):
                continue
            schema = json.loads(archive.read(name).replace(b'"/api/_definitions.json#', b'"_definitions.json#'))
            schema.pop("$id", None)  # an absolute id would send every $ref to the network
            write(out / path, schema)


def strict(schema):
    """A misspelt field is an error, as for Kubernetes' own kinds; the API server would drop it and say nothing."""
    if isinstance(schema, list):
        return [strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def custom_resources(folder, out):
    for path in sorted(folder.glob("*.yaml")):
        for definition in yaml.safe_load_all(path.read_text()):
            kind = definition["spec"]["names"]["kind"].lower()
            group = definition["spec"]["group"].split(".")[0]
            for version in definition["spec"]["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                # Their "metadata" is {type: object}: everything that Kubernetes allows there.
                schema["properties"]["metadata"] = {"type": "object"}
                write(out / f"{kind}-{group}-{version['name']}.json", schema)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--wheel", type=pathlib.Path, required=True)
    parser.add_argument("--crds", type=pathlib.Path, required=True)
    parser.add_argument("versions", nargs="+")
    args = parser.parse_args()
    kubernetes(args.wheel, args.versions, args.out)
    custom_resources(args.crds, args.out / "crds")


if __name__ == "__main__":
    main()
