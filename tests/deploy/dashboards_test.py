"""Dashboards and rules against the metrics of the real server: every name, label and label value exists. And what a
reader needs of a panel: a unit, a description, a legend."""
import re
import sys
import tempfile
import unittest

sys.path[:0] = ["tests/deploy", "tests/integration"]
import observed_server
import programs
import queries
import tools


class ExportedTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        global yaml
        import yaml
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        server_flags, client_flags = observed_server.tls_flags(folder.name)
        with programs.Server(*server_flags) as server:
            server.wait_ready()
            server.generate("--prompt", "Once upon a time", "--max-tokens", "4", *client_flags)
            cls.labels = {"up": set()}  # series -> its labels
            cls.values = {}  # label -> its values
            cls.types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", server.get("/metrics"), re.M))
            for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", server.get("/metrics"), re.M):
                pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
                cls.labels.setdefault(name, set()).update(pairs)
                for label, value in pairs.items():
                    cls.values.setdefault(label, set()).add(value)
        for rule in queries.rules():
            if "record" in rule:
                cls.labels[rule["record"]] = queries.grouped(rule["expr"])

    def check(self, expression):
        selected = queries.selectors(expression)
        self.assertTrue(selected, expression)
        carried = set()
        for metric, matchers in selected:
            self.assertIn(metric, self.labels, expression)
            own = self.labels[metric] | queries.TARGET_LABELS
            carried |= own
            self.assertLessEqual(set(matchers), own, f"{metric} has not got these labels: {expression}")
            for label, pattern in matchers.items():
                # Codes and finish reasons appear with their first call.
                if label in queries.TARGET_LABELS | {"model_name", "grpc_code"} or pattern.startswith("$"):
                    continue
                for value in pattern.split("|"):
                    self.assertIn(value, self.values[label], f"no series has {label}={value}: {expression}")
        self.assertLessEqual(queries.grouped(expression), carried, expression)
        return carried

    def test_every_metric_label_and_value_of_a_dashboard_is_exported(self):
        for name, panel in queries.panels():
            for target in panel["targets"]:
                with self.subTest(f"{name}: {panel['title']}"):
                    carried = self.check(target["expr"])
                    shown = queries.grouped(target["expr"]) or carried
                    self.assertLessEqual(set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])), shown)
                    if panel["type"] == "table":
                        columns = panel["transformations"][0]["options"]["include"]["names"]
                        self.assertLessEqual(set(columns), carried)

    def test_every_metric_label_and_value_of_a_rule_is_exported(self):
        for rule in queries.rules():
            with self.subTest(rule.get("alert") or rule["record"]):
                self.check(rule["expr"])

    def test_every_label_that_an_annotation_shows_is_there(self):
        for rule in queries.rules():
            carried = set().union(*(self.labels.get(metric, {"files", "outcome"}) for metric, _ in queries.selectors(rule["expr"])))
            shown = queries.grouped(rule["expr"]) or carried | queries.TARGET_LABELS
            for text in rule.get("annotations", {}).values():
                self.assertLessEqual(set(re.findall(r"\$labels\.(\w+)", text)), shown, rule)

    def test_counters_are_rated_and_histograms_asked_by_bucket_sum_or_count(self):
        expressions = [target["expr"] for _, panel in queries.panels() for target in panel["targets"]]
        for expression in expressions + [rule["expr"] for rule in queries.rules()]:
            for metric, _ in queries.selectors(expression):
                counter = self.types.get(metric) == "counter" or metric.endswith(("_bucket", "_sum", "_count"))
                if metric.startswith("spotlight_") and counter:
                    self.assertRegex(expression, r"(rate|increase)\(" + metric + r"\b")
                self.assertNotEqual(self.types.get(metric), "histogram", expression)

    def test_what_the_server_measures_is_shown(self):
        shown = {metric for _, panel in queries.panels() for target in panel["targets"]
                 for metric, _ in queries.selectors(target["expr"])}
        families = {name for name in self.types if name.startswith("spotlight_")}
        self.assertEqual({name for name in families if not any(metric.startswith(name) for metric in shown)}, set())


class ReadableTest(unittest.TestCase):

    def test_the_dashboards_are_made_from_the_table(self):
        done = tools.run(sys.executable, "deploy/grafana/dashboards.py", "--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(queries.dashboards()), 3)

    def test_every_panel_has_a_title_a_unit_and_a_description(self):
        for name, panel in queries.panels():
            self.assertTrue(panel["title"] and panel["fieldConfig"]["defaults"]["unit"], name)
            self.assertGreater(len(panel["description"]), 9, panel["title"])

    def test_ids_are_unique_and_panels_do_not_overlap(self):
        uids = [board["uid"] for board in queries.dashboards().values()]
        self.assertEqual(len(set(uids)), len(uids))
        for name, board in queries.dashboards().items():
            ids = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(set(ids)), len(ids))
            taken = set()
            for panel in board["panels"]:
                at = panel["gridPos"]
                self.assertLessEqual(at["x"] + at["w"], 24)
                cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
                self.assertFalse(cells & taken, f"{name}: {panel['title']}")
                taken |= cells

    def test_no_legend_needs_a_mouse(self):
        for _, panel in queries.panels():
            if panel["type"] == "timeseries":
                legend = panel["options"]["legend"]
                self.assertEqual((legend["displayMode"], legend["calcs"]), ("table", ["lastNotNull", "max"]))
            for target in panel["targets"]:
                self.assertTrue(target["legendFormat"])

    def test_every_variable_in_use_is_defined(self):
        for name, board in queries.dashboards().items():
            defined = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval"}
            used = {variable for panel in board["panels"] for target in panel.get("targets", [])
                    for variable in re.findall(r"\$(\w+)", target["expr"])}
            self.assertLessEqual(used, defined, name)


if __name__ == "__main__":
    unittest.main()
