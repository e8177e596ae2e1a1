"""The systemd unit: systemd's own check, flags that the server has, time to drain, and how much it exposes."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path[:0] = ["tests/deploy", "tests/integration"]
import programs
import tools

UNIT = pathlib.Path("deploy/systemd/spotlight.service")
ENVIRONMENT = pathlib.Path("deploy/systemd/spotlight.env")


class UnitTest(unittest.TestCase):

    def setting(self, name):
        return re.search(rf"^{name}=(.*)$", UNIT.read_text(), re.M).group(1)

    def test_stopping_leaves_time_to_drain(self):
        drain = float(re.search(r"--drain-seconds (\S+)", self.setting("ExecStart")).group(1))
        self.assertGreater(float(self.setting("TimeoutStopSec")), drain)

    def test_its_command_is_one_that_the_server_takes(self):
        variables = dict(re.findall(r"^(\w+)=(.*)$", ENVIRONMENT.read_text(), re.M))
        words = self.setting("ExecStart").split()
        self.assertEqual(words[:2], ["/opt/spotlight/run", "spotlight-server"])
        arguments = []
        for word in words[2:]:
            if word.startswith("${"):
                arguments.append(variables[word[2:-1]])
            elif word.startswith("$"):
                arguments += variables[word[1:]].split()
            else:
                arguments.append(word)
        ports = ["--listen=127.0.0.1:0", "--http=127.0.0.1:0"]
        done = tools.run(programs.SERVER, *arguments, *ports)
        self.assertEqual(done.returncode, 1, done.stderr)  # 2 would be a usage error
        self.assertIn(variables["MODEL"], done.stderr)

    def test_systemd_finds_nothing_wrong_and_little_exposed(self):
        if not shutil.which("systemd-analyze"):
            print(f"SKIPPED: {os.environ.get('TEST_TARGET', 'this test')}: no systemd-analyze", flush=True)
            self.skipTest("no systemd-analyze")
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder) / UNIT.name
            unit.write_text(UNIT.read_text().replace("/opt/spotlight/run", "/bin/true"))
            done = tools.run("systemd-analyze", "verify", "--man=no", unit)
            complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
            self.assertEqual(complaints, [])
            done = tools.run("systemd-analyze", "security", "--offline=true", "--threshold=30", unit)
            self.assertEqual(done.returncode, 0, done.stdout[-2000:] + done.stderr)


if __name__ == "__main__":
    unittest.main()
