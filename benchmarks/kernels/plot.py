"""Draws latency against context from the benchmark's JSON: python3 plot.py kernels-h200.json kernels-h200.png"""

import argparse
import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# What is drawn of the rows of sparse_attention at batch 1: label, which rows, which figure, style. What bounds
# us goes without markers.
LINES = [
    ("public Spotlight kernels", False, "public_us", dict(color="#8c564b", marker="s")),
    ("full attention, cuDNN", False, "anchor_us", dict(color="#7f7f7f", marker="D")),
    ("ours", False, "us", dict(color="#1f77b4", marker="o")),
    ("ours, prefiltered", True, "us", dict(color="#d62728", marker="^")),
    ("plain read of the same bytes", False, "read_us", dict(color="#1f77b4", linestyle="--", alpha=0.6)),
    ("plain read, prefiltered", True, "read_us", dict(color="#d62728", linestyle="--", alpha=0.6)),
    ("byte floor", False, "floor_us", dict(color="#1f77b4", linestyle=":")),
    ("byte floor, prefiltered", True, "floor_us", dict(color="#d62728", linestyle=":")),
]


def tokens(count):
    for size, suffix in ((1 << 20, "M"), (1 << 10, "K")):
        if count >= size and count % size == 0:
            return "%d%s" % (count // size, suffix)
    return str(count)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json")
    parser.add_argument("png")
    parser.add_argument("--shape", default="qwen2.5-7b")
    args = parser.parse_args()
    with open(args.json) as file:
        report = json.load(file)
    rows = [row for row in report["rows"] if row["op"] == "sparse_attention" and row["shape"] == args.shape]
    rows = sorted((row for row in rows if row["batch"] == 1 and not row["clustered"]), key=lambda row: row["context"])
    if not rows:
        raise SystemExit("no sparse_attention of %s at batch 1 in %s" % (args.shape, args.json))

    figure, axes = plt.subplots(figsize=(9, 6), dpi=150)
    for label, prefilter, key, style in LINES:
        points = [(row["context"], row[key]) for row in rows if row["prefilter"] == prefilter and row.get(key)]
        if not points:
            continue
        axes.plot(*zip(*points), label=label, linewidth=1.8, markersize=5.5, **style)
        if style.get("marker"):  # the last figure, in words
            axes.annotate("%.0f" % points[-1][1], points[-1], xytext=(7, -3), textcoords="offset points", fontsize=8.5,
                          color=style["color"])
    points = [
        (row["context"], row["us"])
        for row in report["rows"]
        if row["op"] == "skeleton_attention" and row["shape"] == args.shape and row["batch"] == 1
    ]
    if points:
        axes.plot(*zip(*sorted(points)), label="ours without arithmetic: reads, exchanges", color="#2ca02c",
                  linestyle="-.", linewidth=1.4)
    contexts = sorted({row["context"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(contexts, [tokens(context) for context in contexts])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda us, _: "%g" % us))
    axes.set_xlim(contexts[0] * 0.85, contexts[-1] * 1.35)
    axes.set_xlabel("tokens of context")
    axes.set_ylabel("us, one layer, one decode step")
    axes.set_title("%s, %s, batch 1: encode, append, select and attend (cold L2)" % (report["device"], args.shape), fontsize=11)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.grid(True, which="minor", axis="y", color="#f0f0f0", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", fontsize=9, framealpha=1)
    figure.tight_layout()
    figure.savefig(args.png)


if __name__ == "__main__":
    main()
