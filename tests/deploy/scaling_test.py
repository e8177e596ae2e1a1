"""The measurement that autoscaling's numbers come from, on the real server; and the arithmetic."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import types
import unittest

sys.path[:0] = ["tests/deploy", "tests/integration", "deploy/helm"]
import programs
import scaling
import tools

OBJECTIVES = types.SimpleNamespace(first_token=2.5, gap=0.1)


def row(level, requests_per_second, first_token, gap):
    return {"level": level, "requests_per_second": requests_per_second, "median_first_token_seconds": first_token,
            "p95_gap_seconds": gap}


class ScalingTest(unittest.TestCase):

    def test_running_is_three_quarters_of_what_keeps_the_gap_and_waiting_what_starts_in_time(self):
        rows = [row(1, 1.0, 0.5, 0.02), row(8, 4.0, 0.9, 0.06), row(16, 5.0, 1.5, 0.09), row(32, 5.5, 4.0, 0.2)]
        self.assertEqual(scaling.derive(rows, OBJECTIVES), ({"runningPerReplica": 12, "waitingPerReplica": 5}, 16))

    def test_objectives_that_the_device_cannot_keep_are_refused(self):
        with self.assertRaisesRegex(SystemExit, "--gap 0.1 cannot be kept"):
            scaling.derive([row(1, 1.0, 0.5, 0.3)], OBJECTIVES)
        with self.assertRaisesRegex(SystemExit, "--first-token 2.5 cannot be kept"):
            scaling.derive([row(1, 1.0, 3.0, 0.05)], OBJECTIVES)

    def test_a_real_server_gives_values_that_the_chart_takes(self):
        tools.need("bin/helm")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "result.json"
            done = subprocess.run(
                [sys.executable, "deploy/helm/scaling.py", "--program", programs.SERVER, "--client", programs.CLIENT, "--bench",
                 "client/bench/spotlight-bench", "--input-len", "32", "--output-len", "8", "--gap", "5", "--first-token",
                 "10", "--json", path, "--", "--model", programs.TINY_LLAMA, "--threads", "1", "--max-running", "4"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout)
            result = json.loads(path.read_text())
        self.assertEqual([each["level"] for each in result["levels"]], [1, 2, 3, 4])
        self.assertEqual(result["values"]["runningPerReplica"], 3)
        printed = dict(re.findall(r"^  (\w+): (\d+)$", done.stdout, re.M))
        self.assertEqual(printed, {key: str(value) for key, value in result["values"].items()})
        manifests = tools.with_values("autoscaling.kind=hpa", *(f"autoscaling.{key}={value}" for key, value in printed.items()))
        metrics = manifests.one("HorizontalPodAutoscaler")["spec"]["metrics"]
        self.assertEqual([metric["pods"]["target"]["averageValue"] for metric in metrics],
                         [printed["waitingPerReplica"], printed["runningPerReplica"]])

    def test_the_charts_own_numbers_follow_the_servers_defaults(self):
        import yaml
        scaled = yaml.safe_load((tools.CHART / "values.yaml").read_text())["autoscaling"]
        text = subprocess.run([programs.SERVER, "--help"], stdout=subprocess.PIPE, check=True, text=True).stdout
        places = int(re.search(r"--max-running N.*?default:? (\d+)", text, re.S).group(1))
        self.assertEqual(scaled["runningPerReplica"], 0.75 * places)


if __name__ == "__main__":
    unittest.main()
