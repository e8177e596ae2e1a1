"""Writes the Grafana dashboards of panels.py into the chart, from where Grafana's sidecar, or the compose file's Grafana,
loads them.

usage: dashboards.py [--check]    (--check: only say whether they are fresh)
"""
import json
import pathlib
import sys

import panels

OUT = pathlib.Path(__file__).resolve().parent.parent / "helm/spotlight/dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
HEIGHT = {"stat": 4, "state-timeline": 6}  # in grid units; others 8
MACROS = {
    "SERIES": 'namespace=~"$namespace", model_name=~"$model_name", instance=~"$instance"',
    "PROCESS": 'namespace=~"$namespace", job="spotlight", instance=~"$instance"',
    "RATE": "$__rate_interval",
}


def expression(text):
    for name, meaning in MACROS.items():
        text = text.replace(name, meaning)
    return text


def targets(panel):
    kind = {"heatmap": "heatmap", "table": "table"}.get(panel.kind, "time_series")
    return [{"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": expression(query),
             "legendFormat": legend, "format": kind, "instant": kind == "table", "range": kind != "table"}
            for number, (legend, query) in enumerate(panel.queries.items())]


def field_config(panel):
    steps = [{"color": "green", "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in panel.thresholds]
    defaults = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}, "custom": {}}
    if panel.unit == "tokens/s":
        defaults["unit"] = "suffix: tokens/s"
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line", "lineWidth": 2, "fillOpacity": 30 if panel.stacked else 8, "showPoints": "never",
            "spanNulls": True, "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.thresholds else "off"},
        }
        defaults["color"] = {"mode": "palette-classic"}
    if panel.kind == "state-timeline":
        defaults["custom"] = {"fillOpacity": 80, "lineWidth": 0}
        defaults["mappings"] = [{"type": "value", "options": {"0": {"text": "no", "color": "red"},
                                                              "1": {"text": "yes", "color": "green"}}}]
        defaults.pop("min")
    return {"defaults": defaults, "overrides": []}


# Readable without a mouse: legends are tables with the latest and largest value, stats show the number.
OPTIONS = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value",
        "graphMode": "area", "textMode": "value", "justifyMode": "center", "orientation": "auto",
    },
    "heatmap": {
        "calculate": False, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"axisPlacement": "left"}, "legend": {"show": True}, "tooltip": {"mode": "single"},
        "cellValues": {}, "filterValues": {"le": 1e-9}, "rowsFrame": {"layout": "auto"},
    },
    "state-timeline": {
        "showValue": "auto", "mergeValues": True, "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single"},
    },
    "table": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}},
}


def body(panel):
    made = {"type": panel.kind, "title": panel.title, "description": panel.description, "datasource": DATASOURCE,
            "targets": targets(panel), "fieldConfig": field_config(panel), "options": OPTIONS[panel.kind]}
    if panel.kind == "heatmap":
        made["options"] = {**made["options"], "yAxis": {"axisPlacement": "left", "unit": panel.unit}}
    if panel.labels:
        made["transformations"] = [
            {"id": "filterFieldsByName", "options": {"include": {"names": list(panel.labels)}}},
            {"id": "organize", "options": {"indexByName": {name: i for i, name in enumerate(panel.labels)}}},
        ]
    return made


def grid(rows):
    """Rows of panels laid out from top to bottom, each under its heading."""
    made, y = [], 0
    for heading, row in rows.items():
        made.append({"type": "row", "title": heading, "collapsed": False, "panels": [],
                     "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        x = 0
        height = max(HEIGHT.get(panel.kind, 8) for panel in row)
        for panel in row:
            width = panel.width or 24 // len(row)
            made.append({**body(panel), "gridPos": {"x": x, "y": y, "w": width, "h": height}})
            x += width
        y += height
    return [{**panel, "id": number} for number, panel in enumerate(made, 1)]


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "refresh": 2, "sort": 1,
            "query": {"query": query, "refId": name}, "definition": query, "multi": True, "includeAll": True,
            "allValue": ".*",  # also what has no such label: outside Kubernetes there is no namespace
            "current": {"text": ["All"], "value": ["$__all"]}, "hide": 0}


def dashboard(name, title, rows):
    own = 'spotlight_health_status{namespace=~"$namespace"'
    return {
        "uid": f"spotlight-{name}", "title": title, "tags": ["spotlight"], "schemaVersion": 39, "version": 1,
        "editable": True, "graphTooltip": 1, "refresh": "30s", "timezone": "",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {},
             "hide": 0},
            variable("namespace", "Namespace", "label_values(spotlight_health_status, namespace)"),
            variable("model_name", "Model", f"label_values({own}}}, model_name)"),
            variable("instance", "Server", f'label_values({own}, model_name=~"$model_name"}}, instance)'),
        ]},
        "annotations": {"list": [{
            "name": "Restarts", "enable": True, "iconColor": "red", "datasource": DATASOURCE,
            "expr": 'changes(process_start_time_seconds{job="spotlight", instance=~"$instance"}[1m]) > 0',
            "titleFormat": "{{instance}} restarted"}]},
        "links": [{"type": "dashboards", "tags": ["spotlight"], "title": "Spotlight", "asDropdown": False,
                   "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "", "url": "", "tooltip": ""}],
        "panels": grid(rows),
    }


def main():
    stale = []
    for name, (title, rows) in panels.DASHBOARDS.items():
        path = OUT / f"{name}.json"
        text = json.dumps(dashboard(name, title, rows), indent=1) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: not made from this panels.py; run deploy/grafana/dashboards.py")


if __name__ == "__main__":
    main()
