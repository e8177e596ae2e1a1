"""Every load profile for a second against the real server: its calls end as they should, and a storm of cancels frees all."""
import json
import pathlib
import sys
import tempfile
import unittest

sys.path[:0] = ["tests/deploy", "tests/integration"]
import programs
import tools


class ProfilesTest(unittest.TestCase):

    def test_every_profile_runs_and_leaves_nothing_behind(self):
        tools.need("bin/ghz")
        with tempfile.TemporaryDirectory() as folder:
            figures = pathlib.Path(folder) / "figures.json"
            done = tools.run(sys.executable, "deploy/ghz/profiles.py", "--seconds", "1", "--rate", "8", "--json", figures,
                             "--program", programs.SERVER, "--", "--model", programs.TINY_LLAMA, "--threads", "1")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            results = json.loads(figures.read_text())
        self.assertEqual(list(results), ["steady", "step", "spike-before", "spike", "spike-after", "cancel", "mixed"])
        for name, result in results.items():
            self.assertGreater(result["calls"], 0, name)
            self.assertGreater(result["generated_tokens_per_second"], 0, name)
        self.assertGreater(results["cancel"]["statuses"].get("Canceled", 0), 0)
        self.assertLess(results["cancel"]["cancel_release_mean_seconds"], 5)


if __name__ == "__main__":
    unittest.main()
