#!/usr/bin/env python3
"""Joins a report of decode_steps with its anchors', and draws step time against context.

  benchmarks/engine/report.py STEPS.json ANCHOR.json OUT.json [OUT.png] [--transformers TRANSFORMERS.json]

Needs matplotlib for the picture alone.
"""
import argparse
import json
import sys


def join(steps, anchor, transformers):
    compiled = {(row["batch"], row["context"]): row["transformers_ms"] for row in transformers["rows"]}
    times = {(row["batch"], row["context"]): row["ms"] for row in anchor["rows"]}
    rows = []
    for row in steps["rows"]:
        key = row["batch"], row["context"]
        if key not in times:
            sys.exit(f"the anchor has no {key[0]} x {key[1]}: both must have run the same shapes")
        rows.append({**row, "anchor_ms": times[key], "ratio_to_anchor": round(row["ms"] / times[key], 3)})
        if key in compiled:
            rows[-1].update(transformers_ms=compiled[key], times_faster_than_transformers=round(compiled[key] / row["ms"], 2))
    versions = {**steps["versions"], **anchor["versions"], **transformers["versions"]}
    return {**steps, "device": anchor["device"], "versions": versions, "rows": rows}


LINES = (("anchor_ms", "dense, PyTorch under a CUDA graph", "s--"), ("dense_ms", "dense, engine", "o-"),
         ("ms", "sparse 2%, engine", "^-"))


def draw_panel(axis, rows, by, title, label, scale):
    rows = sorted(rows, key=lambda row: row[by])
    places = [row[by] / scale for row in rows]
    for name, line, style in LINES:
        axis.plot(places, [row[name] for row in rows], style, label=line)
    axis.set(xscale="log", title=title, xlabel=label, ylabel="ms per decode step", ylim=(0, None))
    axis.set_xticks(places, [f"{place:.0f}" for place in places])
    axis.minorticks_off()


def draw(report, path):
    """Against context for every batch, and against batch for every context, of which there are three or more."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    panels = []
    for by, other, title, label, scale in (("context", "batch", "batch {:.0f}", "context, K tokens", 1024),
                                           ("batch", "context", "{:.0f}K tokens", "batch", 1)):
        for value in sorted({row[other] for row in report["rows"]}):
            rows = [row for row in report["rows"] if row[other] == value]
            if len(rows) >= 3:
                panels.append((rows, by, title.format(value / 1024 if other == "context" else value), label, scale))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for axis, panel in zip(axes[0], panels):
        draw_panel(axis, *panel)
    axes[0][0].legend(frameon=False)
    figure.suptitle(f"Decode step, Qwen2.5-7B shape, bf16, {report['device']}")
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("steps", "anchor", "out"):
        parser.add_argument(name)
    parser.add_argument("picture", nargs="?")
    parser.add_argument("--transformers", help="what transformers_anchor.py wrote in the same run")
    arguments = parser.parse_args()
    steps, anchor = (json.load(open(path, encoding="utf-8")) for path in (arguments.steps, arguments.anchor))
    transformers = {"versions": {}, "rows": []}
    if arguments.transformers:
        transformers = json.load(open(arguments.transformers, encoding="utf-8"))
    report = join(steps, anchor, transformers)
    with open(arguments.out, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    if arguments.picture:
        draw(report, arguments.picture)


if __name__ == "__main__":
    main()
