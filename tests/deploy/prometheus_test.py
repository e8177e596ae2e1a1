"""A real Prometheus watches the real server under mixed traffic: every panel's, rule's and alert's query returns data."""
import math
import sys
import tempfile
import time
import unittest

sys.path.insert(0, "tests/deploy")
import observed_server
import programs
import queries
import tools


class PrometheusTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        tools.need("bin/prometheus")
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        server, cls.prometheus, client_flags = observed_server.observed(cls.folder.name)
        cls.addClassCleanup(server.__exit__)
        cls.addClassCleanup(cls.prometheus.__exit__)
        with observed_server.Traffic(server, client_flags):
            # The rarest events of the traffic, each seen by two scrapes; and enough time for windows to fill.
            for rare in ('spotlight_requests_cancelled_total{phase="decode"} > 0',
                         "spotlight_cancel_release_seconds_count > 1", "max_over_time(spotlight_requests_waiting[30s]) > 0",
                         "spotlight_retrieval_recall_ratio_count > 5", "spotlight:retrieval_recall:mean1d",
                         'spotlight_requests_rejected_total{reason="queue_requests"} > 0'):
                cls.prometheus.wait_for(rare)
            time.sleep(5)
            cls.results = {}
            for expression in cls.expressions():
                cls.results[expression] = cls.prometheus.query(expression)

    @classmethod
    def panels(cls):
        return queries.panels()

    @classmethod
    def rules(cls):
        return queries.rules()

    @classmethod
    def expressions(cls):
        for _, panel in cls.panels():
            yield from (queries.chosen(target["expr"]) for target in panel["targets"])
        for rule in cls.rules():
            yield rule["expr"] if "record" in rule else queries.operand(rule["expr"])

    def numbers(self, expression):
        return [float(sample["value"][1]) for sample in self.results[expression]]

    def test_every_query_of_every_panel_returns_numbers(self):
        for name, panel in self.panels():
            for target in panel["targets"]:
                with self.subTest(f"{name}: {panel['title']}"):
                    numbers = self.numbers(queries.chosen(target["expr"]))
                    self.assertTrue(numbers, target["expr"])
                    self.assertTrue(any(map(math.isfinite, numbers)), target["expr"])

    def test_ratios_lie_between_0_and_1(self):
        for name, panel in self.panels():
            if panel["fieldConfig"]["defaults"].get("max") != 1:
                continue
            for target in panel["targets"]:
                if "_bucket" in target["expr"]:
                    continue  # an interpolated quantile
                for number in filter(math.isfinite, self.numbers(queries.chosen(target["expr"]))):
                    self.assertTrue(0 <= number <= 1.0001, f"{name}: {panel['title']} is {number}")

    def test_every_rule_evaluates_and_every_alert_has_something_to_compare(self):
        groups = self.prometheus.api("rules")["groups"]
        evaluated = {rule["name"]: rule for group in groups for rule in group["rules"]}
        for rule in self.rules():
            name = rule.get("alert") or rule["record"]
            with self.subTest(name):
                self.assertEqual(evaluated[name]["health"], "ok", evaluated[name].get("lastError"))
                expression = rule["expr"] if "record" in rule else queries.operand(rule["expr"])
                self.assertTrue(self.numbers(expression), expression)

    def test_what_happened_is_what_is_shown(self):
        self.assertEqual(self.numbers("sum(spotlight_health_status{namespace=~\".*\", model_name=~\".*\", "
                                      "instance=~\".*\"})"), [1])
        firing = {alert["labels"]["alertname"] for alert in self.prometheus.api("alerts")["alerts"]}
        self.assertFalse(firing & {"SpotlightDown", "SpotlightNotServing", "SpotlightErrors", "SpotlightRestarting",
                                   "SpotlightRetrievalNotFinite", "SpotlightNoHash"}, firing)


if __name__ == "__main__":
    unittest.main()
