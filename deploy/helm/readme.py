"""Writes the chart's README.md: its text, and between two marks a table of the values, made from the comments of
values.yaml ("# -- text" above a key).

usage: readme.py [--check]    (--check: only say whether it is fresh)
"""
import pathlib
import re
import sys

CHART = pathlib.Path(__file__).resolve().parent / "spotlight"
BEGIN = "<!-- values: made by deploy/helm/readme.py -->\n"
END = "<!-- end of values -->\n"


def entries(text):
    """(dotted key, default as written, description) of each described key; a default of many lines is left out."""
    path = []  # (indent, key) of the enclosing keys
    description = None
    found = []
    for line in text.splitlines():
        if comment := re.match(r"\s*# -- (.*)", line):
            description = comment.group(1)
            continue
        key = re.match(r"(\s*)([\w.-]+):\s*(.*)$", line)
        if not key:
            continue
        indent, name, value = len(key.group(1)), key.group(2), key.group(3)
        while path and path[-1][0] >= indent:
            path.pop()
        path.append((indent, name))
        if description is None:
            continue
        found.append((".".join(key for _, key in path), value, description))
        description = None
    return found


def table(values):
    rows = [f"| `{key}` | {f'`{default}`' if default else 'see values.yaml'} | {text} |\n"
            for key, default, text in entries(values)]
    return "| value | default | |\n| --- | --- | --- |\n" + "".join(rows)


def readme(old, values):
    head, rest = old.split(BEGIN)
    return head + BEGIN + table(values) + END + rest.split(END)[1]


def main():
    path = CHART / "README.md"
    old = path.read_text()
    new = readme(old, (CHART / "values.yaml").read_text())
    if "--check" in sys.argv[1:]:
        if new != old:
            sys.exit("README.md is not made from this values.yaml: run deploy/helm/readme.py")
        return
    path.write_text(new)


if __name__ == "__main__":
    main()
