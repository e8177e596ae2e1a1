#!/usr/bin/env python3
"""Trains the hash in many ways and measures each with spotlight-eval: what every part of the recipe is worth.

  training/ablations.py --model DIR --json OUT [--devices cuda:0,cuda:1] [--jobs-per-device N] [--steps N] [--only TEXT]

Every run differs from the base (the defaults of spotlight-train at --steps steps) in the flags its row names. Runs that
--json already holds are not repeated, so a stopped table goes on. Prints a Markdown table. Standard library only; the
rows of rounded encoders (--rank, int8) need numpy.
"""

import argparse
import concurrent.futures
import json
import pathlib
import queue
import random
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAIN = ROOT / "training/texts/train"
EVAL = ROOT / "training/texts/eval"

# (group, row, flags of spotlight-train). "{steps}", "{3 steps}", ... are multiples of --steps; a flag --text replaces
# the corpus; --round names what round_hash.py does to the trained file.
RUNS = [
    ("base", "the recipe", []),
    ("base", "the recipe, seed 2", ["--seed", "2"]),
    ("base", "the recipe, seed 3", ["--seed", "3"]),
    ("loss", "Bradley-Terry on the exact top", ["--loss", "bt"]),
    ("loss", "cross-entropy against the exact top, uniform", ["--loss", "soft-topk"]),
    ("encoder", "linear, real queries", ["--encoder", "linear"]),
    ("encoder", "linear, query bits", ["--encoder", "linear", "--query", "bits", "--prefix-bits", "0"]),
    ("encoder", "linear, query bits, learning rate 0.001",
     ["--encoder", "linear", "--query", "bits", "--prefix-bits", "0", "--learning-rate", "0.001"]),
    ("encoder", "linear, query bits, Bradley-Terry (HATA's kind)",
     ["--encoder", "linear", "--query", "bits", "--prefix-bits", "0", "--loss", "bt"]),
    ("encoder", "the paper's MLP per query head, Bradley-Terry (3 codes a token)",
     ["--encoder", "paper", "--query", "bits", "--per-query-head", "--prefix-bits", "0", "--loss", "bt"]),
    ("encoder", "the paper's MLP per KV head, query bits",
     ["--encoder", "paper", "--query", "bits", "--prefix-bits", "0"]),
    ("encoder", "hidden 64 / 128", ["--key-hidden", "64", "--query-hidden", "128"]),
    ("encoder", "hidden 256 / 512", ["--key-hidden", "256", "--query-hidden", "512"]),
    ("planes", "1 plane", ["--planes", "1"]),
    ("planes", "2 planes", ["--planes", "2"]),
    ("planes", "3 planes", ["--planes", "3"]),
    ("bits", "64 bits", ["--bits", "64"]),
    ("bits", "256 bits", ["--bits", "256"]),
    ("nesting", "not nested", ["--prefix-bits", "0"]),
    ("nesting", "prefix weight 1", ["--prefix-weight", "1"]),
    ("positions", "no position mix, 4,096 tokens", ["--no-position-mix"]),
    ("positions", "no position mix, 8,192 tokens",
     ["--no-position-mix", "--tokens-per-sequence", "8192"]),
    ("positions", "1,024 tokens", ["--tokens-per-sequence", "1024"]),
    ("positions", "2,048 tokens", ["--tokens-per-sequence", "2048"]),
    ("steps", "1/4 of the steps", ["--steps", "{0.25 steps}"]),
    ("steps", "3 times the steps", ["--steps", "{3 steps}"]),
    ("steps", "6 times the steps", ["--steps", "{6 steps}"]),
    ("learning rate", "0.004", ["--learning-rate", "0.004"]),
    ("learning rate", "0.016", ["--learning-rate", "0.016"]),
    ("corpus", "books alone", ["--text", str(TRAIN / "books")]),
    ("corpus", "code alone", ["--text", str(TRAIN / "code")]),
    ("corpus", "random words of the vocabulary", ["--text", "{random words}"]),
    ("rounded afterwards", "int8, a scale per output", ["--round", "int8"]),
    ("rounded afterwards", "rank 48", ["--round", "rank=48"]),
    ("rounded afterwards", "rank 32", ["--round", "rank=32"]),
    ("rounded afterwards", "rank 16", ["--round", "rank=16"]),
]


def random_words(model, path, words=600_000):
    """A text of words drawn from the tokenizer's vocabulary: attention has nothing to read in it."""
    vocabulary = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    known = sorted(token[1:] for token in vocabulary if re.fullmatch("Ġ[A-Za-z]+", token))
    draw = random.Random(1)
    path.write_text("\n".join(" ".join(draw.choices(known, k=12)) for _ in range(words // 12)) + "\n", encoding="utf-8")


def call(command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stderr.strip()}")
    return result


def measure(arguments, device, flags, folder):
    """One row: train, perhaps round, evaluate."""
    folder.mkdir(exist_ok=True)
    hash_file = folder / "hash.safetensors"
    flags = [re.sub(r"\{([\d.]+) steps\}", lambda m: str(int(float(m[1]) * arguments.steps)), flag) for flag in flags]
    if "{random words}" in flags:
        text = folder / "random.txt"
        random_words(arguments.model, text)
        flags[flags.index("{random words}")] = str(text)
    rounding = None
    if "--round" in flags:
        rounding = flags[flags.index("--round") + 1]
        flags = []
    if "--steps" not in flags:
        flags += ["--steps", str(arguments.steps)]
    if "--text" not in flags:
        flags += ["--text", str(TRAIN)]
    if "--tokens-per-sequence" not in flags:
        flags += ["--tokens-per-sequence", str(arguments.tokens_per_sequence)]
    start = time.monotonic()
    call([arguments.bin / "spotlight-train", "--model", arguments.model, "--out", hash_file, "--device", device,
          "--checkpoint-seconds", "0", "--weights", "bf16", *flags])
    seconds = time.monotonic() - start
    if rounding:
        rounded = folder / "rounded.safetensors"
        call([sys.executable, ROOT / "training/round_hash.py", hash_file, rounded, rounding])
        hash_file = rounded
    served = not {"bits", "paper", "--per-query-head"} & set(flags)
    nested = served and "0" not in flags[flags.index("--prefix-bits") :][:2] if "--prefix-bits" in flags else served
    selectors = ["oracle-b", "hash"] + (["hash-real"] if served else []) + (["hash-prefilter"] if nested else [])
    report = folder / "report.json"
    call([arguments.bin / "spotlight-eval", "--model", arguments.model, "--hash", hash_file, "--text", arguments.eval_text,
          "--context", arguments.context, "--selectors", ",".join(selectors), "--device", device, "--json", report])
    report = json.loads(report.read_text(encoding="utf-8"))
    rows = {row["selector"]: row for row in report["rows"]}
    figures = {name: rows["hash"][name] for name in ("iou_a", "rec_b", "mass_c", "err", "mass_p1")}
    figures.update(oracle_b_mass_c=rows["oracle-b"]["mass_c"], oracle_b_err=rows["oracle-b"]["err"], seconds=seconds,
                   bytes=hash_file.stat().st_size)
    for loss in report["losses"]:
        figures.update(quantising=loss.get("quantising"), prefilter=loss.get("prefilter"))
    return {"device": report["device"], "versions": report["versions"], **figures}


def table(rows):
    lines = ["| | | recB | iouA | massC | err | lost by quantising, by the prefilter | MB | seconds |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    group = None
    for row in rows:
        lost = [f"{row[name]:.3f}" if row.get(name) is not None else "-" for name in ("quantising", "prefilter")]
        lines.append(
            f"| {row['group'] if row['group'] != group else ''} | {row['run']} | {row['rec_b']:.3f} | {row['iou_a']:.3f} "
            f"| {row['mass_c']:.3f} | {row['err']:.3f} | {', '.join(lost)} | {row['bytes'] / 1e6:.1f} "
            f"| {row['seconds']:.0f} |")
        group = row["group"]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="checkpoint folder")
    parser.add_argument("--json", type=pathlib.Path, required=True, help="figures; read first where it exists")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "bin", help="folder of the programs (default: bin)")
    parser.add_argument("--devices", default="auto", help="comma-separated; runs are spread over them (default: auto)")
    parser.add_argument("--jobs-per-device", type=int, default=1, help="runs at once on one device (default: 1)")
    parser.add_argument("--steps", type=int, default=1000, help="of the base (default: 1000)")
    parser.add_argument("--tokens-per-sequence", type=int, default=4096, help="of the base (default: 4096)")
    parser.add_argument("--context", type=int, default=8192, help="tokens of the evaluation's sequences (default: 8192)")
    parser.add_argument("--eval-text", default=EVAL, help="texts of the evaluation (default: training/texts/eval)")
    parser.add_argument("--only", default="", help="runs whose group or name contains this")
    arguments = parser.parse_args()

    done = {}
    if arguments.json.exists():
        done = {(row["group"], row["run"]): row for row in json.loads(arguments.json.read_text())["rows"]}
    devices = queue.SimpleQueue()
    for device in arguments.devices.split(",") * arguments.jobs_per_device:
        devices.put(device)

    def run(index):
        group, name, flags = RUNS[index]
        device = devices.get()
        try:
            with tempfile.TemporaryDirectory() as folder:
                figures = measure(arguments, device, list(flags), pathlib.Path(folder) / "run")
        finally:
            devices.put(device)
        return {"group": group, "run": name, "flags": flags, **figures}

    wanted = [i for i, (group, name, _) in enumerate(RUNS)
              if (group, name) not in done and arguments.only in f"{group}: {name}"]
    with concurrent.futures.ThreadPoolExecutor(devices.qsize()) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run, index) for index in wanted]):
            row = future.result()
            done[row["group"], row["run"]] = row
            rows = [done[key] for key in ((group, name) for group, name, _ in RUNS) if key in done]
            arguments.json.write_text(json.dumps({
                "format": "spotlight-ablations-1", "steps": arguments.steps, "context": arguments.context,
                "tokens_per_sequence": arguments.tokens_per_sequence, "rows": rows}, indent=1) + "\n")
            print(f"{row['group']}: {row['run']}: recB {row['rec_b']:.3f}, {row['seconds']:.0f} s of training",
                  file=sys.stderr)
    print(table([done[key] for key in ((group, name) for group, name, _ in RUNS) if key in done]))


if __name__ == "__main__":
    main()
