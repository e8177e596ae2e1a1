#!/usr/bin/env python3
"""Joins a report of decode_steps with its anchor's, and draws step time against context.

  benchmarks/engine/report.py STEPS.json ANCHOR.json OUT.json [OUT.png]

Needs matplotlib for the picture alone.
"""
import json
import sys


def join(steps, anchor):
    times = {(row["batch"], row["context"]): row["ms"] for row in anchor["rows"]}
    rows = []
    for row in steps["rows"]:
        key = row["batch"], row["context"]
        if key not in times:
            sys.exit(f"the anchor has no {key[0]} x {key[1]}: both must have run the same shapes")
        rows.append({**row, "anchor_ms": times[key], "ratio_to_anchor": round(row["ms"] / times[key], 3)})
    return {**steps, "device": anchor["device"], "versions": {**steps["versions"], **anchor["versions"]}, "rows": rows}


def draw(report, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    batches = sorted({row["batch"] for row in report["rows"]})
    figure, axes = plt.subplots(1, len(batches), figsize=(5 * len(batches), 4), squeeze=False)
    for axis, batch in zip(axes[0], batches):
        rows = sorted((row for row in report["rows"] if row["batch"] == batch), key=lambda row: row["context"])
        contexts = [row["context"] / 1024 for row in rows]
        for name, label, style in (("anchor_ms", "dense, PyTorch under a CUDA graph", "s--"), ("dense_ms", "dense, engine", "o-"),
                                   ("ms", "sparse 2%, engine", "^-")):
            axis.plot(contexts, [row[name] for row in rows], style, label=label)
        axis.set(xscale="log", title=f"batch {batch}", xlabel="context, K tokens", ylabel="ms per decode step", ylim=(0, None))
        axis.set_xticks(contexts, [f"{context:g}" for context in contexts])
        axis.minorticks_off()
    axes[0][0].legend(frameon=False)
    figure.suptitle(f"Decode step, Qwen2.5-7B shape, bf16, {report['device']}")
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    steps, anchor = (json.load(open(path, encoding="utf-8")) for path in sys.argv[1:3])
    report = join(steps, anchor)
    with open(sys.argv[3], "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    if len(sys.argv) == 5:
        draw(report, sys.argv[4])


if __name__ == "__main__":
    main()
