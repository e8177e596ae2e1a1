"""Every PromQL expression that the project ships, and what it speaks of."""
import json
import re

import tools

# What Prometheus itself puts on every series, outside Kubernetes and (the last three) in it.
TARGET_LABELS = {"job", "instance", "namespace", "pod", "service"}


def dashboards():
    return {path.stem: json.loads(path.read_text()) for path in sorted((tools.CHART / "dashboards").glob("*.json"))}


def panels():
    """(dashboard, panel) of every panel that shows data."""
    return [(name, panel) for name, board in dashboards().items() for panel in board["panels"] if panel["type"] != "row"]


def chosen(expression):
    """A dashboard's expression with every variable at "All"."""
    for name, value in (("$__rate_interval", "30s"), ("$namespace", ".*"), ("$model_name", ".*"), ("$instance", ".*")):
        expression = expression.replace(name, value)
    return expression


def rules():
    import yaml
    return [rule for group in yaml.safe_load(tools.RULES.read_text())["groups"] for rule in group["rules"]]


def selectors(expression):
    """[(metric, {label: matched value})] of an expression."""
    return [(metric, dict(re.findall(r'(\w+)\s*=~?\s*"((?:[^"\\]|\\.)*)"', matchers)))
            for metric, matchers in re.findall(r"\b(up|(?:spotlight|process)[_:][\w:]+)\b(\{[^}]*\})?", expression)]


def grouped(expression):
    return {label for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r",\s*", labels) if label}


def operand(expression):
    """An alert's expression that answers 0 where the alert would be silent: every comparison returns a boolean."""
    outside = re.split(r'(\{[^}]*\})', expression)
    return "".join(part if part.startswith("{") else re.sub(r"(==|!=|>=|<=|>|<)(?!\s*bool)", r"\1 bool", part)
                   for part in outside)
