"""The rules: promtool's checks and unit tests (alerts.yaml), that these would notice a rule that is gone or always
fires, and that every alert has a paragraph in the runbook."""
import json
import pathlib
import re
import sys
import tempfile
import unittest

sys.path.insert(0, "tests/deploy")
import tools

TESTS = pathlib.Path("tests/deploy/alerts.yaml")


def setUpModule():
    tools.need("bin/promtool")
    global yaml
    import yaml


def load():
    return yaml.safe_load(tools.RULES.read_text())


def alerts(rules):
    return {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule}


def promtool_test(rules, alert):
    """Whether the unit tests that speak of this alert pass for these rules."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "rules.yaml").write_text(yaml.safe_dump(rules))
        tests = yaml.safe_load(TESTS.read_text())
        tests["rule_files"] = ["rules.yaml"]
        tests["tests"] = [test for test in tests["tests"] if alert in json.dumps(test)]
        (path / "tests.yaml").write_text(yaml.safe_dump(tests))
        return tools.run(tools.FOLDER / "bin/promtool", "test", "rules", path / "tests.yaml").returncode == 0


class RulesTest(unittest.TestCase):

    def test_the_rules_are_well_formed(self):
        done = tools.run(tools.FOLDER / "bin/promtool", "check", "rules", "--lint=all", "--lint-fatal", tools.RULES)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_alert_fires_when_it_should_and_is_silent_when_not(self):
        done = tools.run(tools.FOLDER / "bin/promtool", "test", "rules", TESTS)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def test_the_unit_tests_notice_each_alert_that_never_fires_and_each_that_always_does(self):
        for name in alerts(load()):
            with self.subTest(name):
                never = load()
                alerts(never)[name]["expr"] = "vector(0) > 1"
                self.assertFalse(promtool_test(never, name), "no test sees it fire")
                always = load()
                alerts(always)[name].update({"expr": "vector(1)", "for": "0s"})
                self.assertFalse(promtool_test(always, name), "no test sees it silent")

    def test_alerts_tell_severity_summary_and_description(self):
        for name, rule in alerts(load()).items():
            self.assertIn(rule["labels"]["severity"], ("critical", "warning", "info"), name)
            self.assertEqual(set(rule["annotations"]), {"summary", "description"}, name)

    def test_every_alert_has_its_paragraph_in_the_runbook_and_no_other(self):
        sections = re.split(r"^## ", pathlib.Path("deploy/runbook.md").read_text(), flags=re.M)[1:]
        paragraphs = {section.split("\n")[0].strip(): section.split("\n", 1)[1].strip() for section in sections}
        self.assertEqual(set(paragraphs), set(alerts(load())))
        for name, text in paragraphs.items():
            self.assertGreater(len(text.split()), 30, f"{name}: say what it means and what to do")


if __name__ == "__main__":
    unittest.main()
