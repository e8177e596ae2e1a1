"""The compose file: files that it mounts, flags that the server takes, time to drain, what Prometheus and Grafana are told."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path[:0] = ["tests/deploy", "tests/integration"]
import programs
import tools

FOLDER = pathlib.Path("deploy/container")


class ComposeTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        import yaml
        cls.yaml = yaml
        cls.text = (FOLDER / "compose.yaml").read_text()
        cls.compose = yaml.safe_load(cls.text)
        cls.services = cls.compose["services"]

    def test_what_it_mounts_is_there(self):
        for service in self.services.values():
            for volume in service["volumes"]:
                source = volume.rsplit(":", 2)[0]
                if not source.startswith("${"):
                    self.assertTrue((FOLDER / source).is_dir(), volume)
        build = self.services["server"]["build"]
        self.assertTrue((FOLDER / build["context"] / build["dockerfile"]).exists())

    def test_its_command_is_one_that_the_server_takes(self):
        flags = [re.sub(r"\$\{MODEL_NAME:-(\w+)\}", r"\1", flag) for flag in self.services["server"]["command"]]
        done = tools.run(programs.SERVER, *flags, "--listen=127.0.0.1:0", "--http=127.0.0.1:0")
        self.assertEqual(done.returncode, 1, done.stderr)  # 2 would be a usage error
        self.assertIn("/models/model", done.stderr)

    def test_stopping_leaves_time_to_drain(self):
        text = subprocess.run([programs.SERVER, "--help"], stdout=subprocess.PIPE, check=True, text=True).stdout
        drain = float(re.search(r"--drain-seconds S.*?default:? ([\d.]+)", text, re.S).group(1))
        self.assertGreater(float(self.services["server"]["stop_grace_period"].rstrip("s")), drain)

    def test_the_server_is_confined_as_in_the_chart(self):
        server = self.services["server"]
        self.assertIs(server["read_only"], True)
        self.assertEqual(server["cap_drop"], ["ALL"])
        self.assertEqual(server["security_opt"], ["no-new-privileges:true"])

    def test_nothing_is_published_beyond_this_machine(self):
        for service in self.services.values():
            for port in service["ports"]:
                self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_its_health_check_is_answered(self):
        command = self.services["server"]["healthcheck"]["test"]
        self.assertEqual(command[:2], ["CMD", "/opt/spotlight/bin/spotlight"])
        with programs.Server() as server:
            server.wait_ready()
            done = subprocess.run([programs.CLIENT, *command[2:]], stdout=subprocess.DEVNULL,
                                  env={**os.environ, "SPOTLIGHT_SERVER": server.grpc})
            self.assertEqual(done.returncode, 0)

    def test_prometheus_takes_its_configuration_and_scrapes_the_server_under_the_rules_job(self):
        content = self.compose["configs"]["prometheus"]["content"]
        config = self.yaml.safe_load(content)
        scrape, = config["scrape_configs"]
        self.assertEqual(scrape["job_name"], "spotlight")
        self.assertEqual(scrape["static_configs"], [{"targets": ["server:9090"]}])
        self.assertIn("--http=0.0.0.0:9090", self.services["server"]["command"])
        tools.need("bin/promtool")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            rules = f"{tools.RULES.resolve().parent}/"
            file.write(content.replace("/etc/prometheus/rules/", rules))
            file.flush()
            done = tools.run(tools.FOLDER / "bin/promtool", "check", "config", file.name)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("SUCCESS", done.stdout)

    def test_grafana_reads_the_dashboards_that_are_mounted(self):
        environment = self.services["grafana"]["environment"]
        providers = self.yaml.safe_load(self.compose["configs"]["dashboards"]["content"])["providers"]
        mount = self.services["grafana"]["volumes"][0].split(":")
        self.assertEqual([provider["options"]["path"] for provider in providers], [mount[1]])
        home = pathlib.Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).relative_to(mount[1])
        self.assertTrue((FOLDER / mount[0] / home).exists())
        source, = self.yaml.safe_load(self.compose["configs"]["datasource"]["content"])["datasources"]
        self.assertEqual(source["url"], "http://prometheus:9090")


if __name__ == "__main__":
    unittest.main()
