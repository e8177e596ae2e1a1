#!/usr/bin/env python3
"""Joins a report of decode_steps with its anchors', and draws step time against context and batch.

  benchmarks/engine/report.py STEPS.json ANCHOR.json OUT.json [OUT.png] [--serving SERVING.json]
                              [--transformers TRANSFORMERS.json]

STEPS and ANCHOR must be of one kind of device. TRANSFORMERS may be of another run: its rows say of which.

Needs matplotlib for the picture alone.
"""
import argparse
import json
import sys


SWITCHES = "prefix_cache", "quality_sample_every", "temperature", "top_p"


def join(steps, anchor, serving, transformers):
    for report in (anchor, serving):
        if report and report["device"] != steps["device"]:
            sys.exit(f"the steps ran on {steps['device']}, the others on {report['device']}")
    times = {(row["batch"], row["context"]): row["ms"] for row in anchor["rows"]}
    rows = [{**row} for row in steps["rows"]]
    if serving:
        rows += [{**row, "switched_on": {name: serving[name] for name in SWITCHES}} for row in serving["rows"]]
    for row in rows:
        key = row["batch"], row["context"]
        if key not in times:
            sys.exit(f"the anchor has no {key[0]} x {key[1]}: both must have run the same shapes")
        if "ms" not in row:
            sys.exit(f"{key[0]} x {key[1]} was measured dense alone")
        row.update(anchor_ms=times[key], ratio_to_anchor=round(row["ms"] / times[key], 3))
    if transformers:
        compiled = {(row["batch"], row["context"]): row["transformers_ms"] for row in transformers["rows"]}
        run = f"commit {transformers['commit']}, {transformers['device']}"
        for row in rows:
            time = compiled.get((row["batch"], row["context"]))
            if time is not None:
                row.update(transformers_ms=time, times_faster_than_transformers=round(time / row["ms"], 2),
                           transformers_run=run)
    versions = {**steps["versions"], **anchor["versions"], **(transformers or {"versions": {}})["versions"]}
    return {**steps, "versions": versions, "rows": rows}


LINES = (("anchor_ms", "dense, PyTorch under a CUDA graph", "s--"), ("dense_ms", "dense, engine", "o-"),
         ("ms", "sparse 2%, engine", "^-"))


def draw_panel(axis, rows, by, title, label, scale):
    rows = sorted(rows, key=lambda row: row[by])
    places = [row[by] / scale for row in rows]
    for name, line, style in LINES:
        measured = [(row[by] / scale, row[name]) for row in rows if name in row]  # --modes may leave dense out
        if measured:
            axis.plot(*zip(*measured), style, label=line)
    axis.set(xscale="log", title=title, xlabel=label, ylabel="ms per decode step", ylim=(0, None))
    axis.set_xticks(places, [f"{place:.0f}" for place in places])
    axis.minorticks_off()


def draw(report, path):
    """Against context for every batch, and against batch for every context, of which there are three or more."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    panels = []
    steps = [row for row in report["rows"] if row["op"] == "decode_step"]
    for by, other, title, label, scale in (("context", "batch", "batch {:.0f}", "context, K tokens", 1024),
                                           ("batch", "context", "{:.0f}K tokens", "batch", 1)):
        for value in sorted({row[other] for row in steps}):
            rows = [row for row in steps if row[other] == value]
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
    parser.add_argument("--serving", help="what decode_steps --serving_defaults wrote")
    parser.add_argument("--transformers", help="what transformers_anchor.py wrote")
    arguments = parser.parse_args()
    steps, anchor, serving, transformers = (
        json.load(open(path, encoding="utf-8")) if path else None
        for path in (arguments.steps, arguments.anchor, arguments.serving, arguments.transformers))
    report = join(steps, anchor, serving, transformers)
    with open(arguments.out, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    if arguments.picture:
        draw(report, arguments.picture)


if __name__ == "__main__":
    main()
