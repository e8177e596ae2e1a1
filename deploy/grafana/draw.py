"""Draws the dashboards' panels, from what a Prometheus holds, as pictures for the documentation.

usage: PROMETHEUS_URL=http://... draw.py FOLDER [SECONDS]    (the latest SECONDS, 60 when not told; needs matplotlib)

deploy/grafana/pictures: python3 tests/deploy/observed_server.py 75 python3 deploy/grafana/draw.py deploy/grafana/pictures
"""
import json
import math
import os
import pathlib
import sys
import time
import urllib.parse
import urllib.request

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

DASHBOARDS = pathlib.Path(__file__).resolve().parent.parent / "helm/spotlight/dashboards"
VARIABLES = {"$__rate_interval": "10s", "$namespace": ".*", "$model_name": ".*", "$instance": ".*"}
STEPS = [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")]
UNITS = {"s": "s", "Bps": "B/s", "bytes": "B", "reqps": "/s", "ops": "/s", "suffix: tokens/s": " tokens/s"}


def show(value, unit):
    if not math.isfinite(value):
        return "no data"
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "short" and abs(value) < 1000:
        return f"{value:.3g}"
    scale, prefix = next((step for step in STEPS if abs(value) >= step[0]), (1, ""))
    return f"{value / scale:.3g} {prefix}{UNITS.get(unit, '')}".strip()


class Data:

    def __init__(self, url, seconds):
        self._url, self._end, self._seconds = url, time.time(), seconds

    def lines(self, target):
        """[(legend, seconds before now, values)], by legend."""
        expression = target["expr"]
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        query = {"query": expression, "start": self._end - self._seconds, "end": self._end, "step": 1}
        with urllib.request.urlopen(f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(query)}") as answer:
            result = json.load(answer)["data"]["result"]
        found = []
        for series in result:
            legend = target["legendFormat"]
            for label, value in series["metric"].items():
                legend = legend.replace("{{" + label + "}}", value)
            times, values = zip(*series["values"])
            found.append((legend, [t - self._end for t in times], [float(v) for v in values], series["metric"]))
        return sorted(found, key=lambda line: line[0])


def draw_stat(axes, panel, data):
    values = [v for target in panel["targets"] for line in data.lines(target) for v in line[2] if math.isfinite(v)]
    config = panel["fieldConfig"]["defaults"]
    last = values[-1] if values else math.nan
    colour = "green"
    for step in config["thresholds"]["steps"]:
        if step["value"] is not None and last >= step["value"]:
            colour = step["color"]
    axes.axis("off")
    axes.text(0.5, 0.45, show(last, config["unit"]), ha="center", va="center", fontsize=15, color=colour)


def draw_lines(axes, panel, data):
    config = panel["fieldConfig"]["defaults"]
    found = [line for target in panel["targets"] for line in data.lines(target)]
    stacked = config["custom"]["stacking"]["mode"] == "normal"
    floor = None
    for legend, times, values, _ in found:
        finite = [v for v in values if math.isfinite(v)]
        label = f"{legend}   last {show(finite[-1], config['unit'])}" if finite else legend
        if stacked and floor is not None and len(floor) == len(values):
            values = [a + b for a, b in zip(floor, values)]
        axes.plot(times, values, label=label, linewidth=1.4)
        floor = values
    top = axes.get_ylim()[1]
    for step in config["thresholds"]["steps"]:
        if step["value"] is not None and step["value"] <= top:
            axes.axhline(step["value"], color=step["color"], linestyle="--", linewidth=1)
    axes.set_ylim(bottom=0)
    unit = config["unit"] if config["unit"] in ("s", "percentunit", "bytes", "Bps") else "short"
    axes.yaxis.set_major_formatter(lambda value, _: show(value, unit))
    axes.set_xticks([])
    axes.grid(axis="y", alpha=0.3)
    if found:
        axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False, ncol=1 + (len(found) > 4))


def draw_heatmap(axes, panel, data):
    found = sorted(data.lines(panel["targets"][0]), key=lambda line: float(line[0]))
    times = sorted({t for line in found for t in line[1]})
    below = [0] * len(times)
    rows = []
    for _, at, values, _ in found:
        row = dict(zip(at, values))
        counts = [row.get(t, 0) for t in times]
        rows.append([max(0, count - less) for count, less in zip(counts, below)])
        below = counts
    used = [i for i, row in enumerate(rows) if any(v > 1e-9 for v in row)] or [0]
    low, high = max(0, used[0] - 1), min(len(rows), used[-1] + 2)
    axes.imshow(rows[low:high], aspect="auto", origin="lower", cmap="Oranges", interpolation="nearest")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    names = [line[0] if line[0] == "+Inf" else show(float(line[0]), unit) for line in found[low:high]]
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xticks([])


def draw_states(axes, panel, data):
    found = [line for target in panel["targets"] for line in data.lines(target)]
    for row, (legend, times, values, _) in enumerate(found):
        for t, v in zip(times, values):
            axes.barh(row, 1.05, left=t, color="green" if v else "red", height=0.5)
        axes.text(times[0] + 1, row, legend, color="white", va="center")
    axes.set_yticks([])
    axes.set_ylim(-1, len(found))
    axes.set_xticks([])


def draw_table(axes, panel, data):
    names = panel["transformations"][0]["options"]["include"]["names"]
    rows = [[labels.get(name, "") for name in names] for line in data.lines(panel["targets"][0]) for labels in [line[3]]]
    axes.axis("off")
    table = axes.table(cellText=rows, colLabels=names, loc="upper center", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(6)


DRAW = {"stat": draw_stat, "timeseries": draw_lines, "heatmap": draw_heatmap, "state-timeline": draw_states,
        "table": draw_table}


def main():
    data = Data(os.environ["PROMETHEUS_URL"], float(sys.argv[2]) if len(sys.argv) > 2 else 60)
    plt.rcParams.update({"font.size": 7, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False})
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
        figure = plt.figure(figsize=(15, 0.36 * rows))
        for panel in board["panels"]:
            at = panel["gridPos"]
            top = 1 - at["y"] / rows
            if panel["type"] == "row":
                figure.text(0.02, top - 0.7 / rows, panel["title"], fontsize=10, weight="bold")
                continue
            below = 2.6 if panel["type"] == "timeseries" else 0.5
            axes = figure.add_axes([at["x"] / 24 + 0.04, top - (at["h"] - below) / rows,
                                    at["w"] / 24 - 0.055, (at["h"] - below - 1.1) / rows])
            axes.set_title(panel["title"], loc="left")
            DRAW[panel["type"]](axes, panel, data)
        pathlib.Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        figure.savefig(f"{sys.argv[1]}/{path.stem}.png", dpi=80)
        plt.close(figure)


if __name__ == "__main__":
    main()
