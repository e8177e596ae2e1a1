"""The chart's arguments, probes and scaling against the real server: that it has these flags, names, paths and metrics."""
import hashlib
import json
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

ALL_FLAGS = """
server:
  device: cpu
  dtype: fp32
  quantization: fp8
  kvCacheDtype: fp8
  threads: 1
  maxTokensInCache: 4194304
  cacheMemoryShare: 0.5
  maxContext: 4096
  maxRunning: 8
  maxStepTokens: 256
  maxTokenGapMs: 80
  maxStepSeconds: 900
  maxWaitingRequests: 100000
  maxWaitingTokens: 20000000
  hash: none
  hashFolders: /hashes,/more
  budget: 0.05
  sparseMinContext: 1000000
  prefilter: "off"
  qualitySampleEvery: 64
  qualityFloor: 0.5
  qualityLowSamples: 4
  qualityFallback: budget
  maxConnectionAgeSeconds: 600
  connectionGraceSeconds: 60
  histogramBuckets: time_to_first_token_seconds=0.5,2.5;step_seconds=0.01,0.1
"""


def start(flags, *more):
    """A server with the chart's arguments, on free loopback ports. Later flags win."""
    arguments = [f"{name}={value}" if value is not True else name for name, value in flags.items()]
    return subprocess.run([programs.SERVER, *arguments, "--listen=127.0.0.1:0", "--http=127.0.0.1:0", *more],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


class FlagsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        tools.need("bin/helm")
        text = subprocess.run([programs.SERVER, "--help"], stdout=subprocess.PIPE, check=True, text=True).stdout
        cls.known = set()
        for line in text.splitlines():
            if flag := re.match(r"  --(\[no-\])?([\w-]+)", line):
                cls.known.add("--" + flag.group(2))
                if flag.group(1):
                    cls.known.add("--no-" + flag.group(2))

    def unknown(self, flags):
        return set(flags) - self.known

    def all_flags(self):
        import yaml
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
            values.write(ALL_FLAGS)
            values.flush()
            manifests = tools.render(*tools.MINIMAL, "--values", values.name)
        settable = yaml.safe_load((tools.CHART / "values.yaml").read_text())["server"]
        self.assertEqual(set(settable) - {"drainSeconds"}, set(yaml.safe_load(ALL_FLAGS)["server"]))
        return manifests.flags

    def test_every_argument_of_every_example_is_a_flag_of_the_server(self):
        for example in tools.EXAMPLES:
            self.assertEqual(self.unknown(tools.render("--values", example).flags), set(), example.name)

    def test_every_server_value_reaches_a_flag_that_parses_it(self):
        flags = self.all_flags()
        self.assertEqual(flags["--max-waiting-tokens"], "20000000")
        self.assertEqual(flags["--budget"], "0.05")
        self.assertEqual(self.unknown(flags), set())
        for other in ("--max-tokens-in-cache", "--cache-memory-share"):  # one of the two
            done = start({name: value for name, value in flags.items() if name in self.known - {other}})
            # 2 is a usage error; the folder is missing, which loading finds after all flags are read.
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("/models/tiny", done.stderr)
        self.assertEqual(start(flags).returncode, 2)

    def test_a_flag_that_the_server_does_not_know_would_be_a_usage_error(self):
        self.assertEqual(start({"--model": "/models/tiny", "--max-runing": "3"}).returncode, 2)


class ServedTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        tools.need("bin/helm")
        cls.server = programs.Server().wait_ready()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def test_grpc_probes_ask_for_names_that_are_served(self):
        server = tools.with_values().server
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = self.server.client("health", "--service", server[probe]["grpc"]["service"])
            self.assertEqual(asked.returncode, 0, asked.stderr)
        self.assertNotEqual(self.server.client("health", "--service", "readynes").returncode, 0)

    def test_http_probes_and_the_service_monitor_ask_for_paths_that_are_served(self):
        manifests = tools.with_values("tls.enabled=true", "tls.secretName=s", "serviceMonitor.enabled=true")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(self.server.get(manifests.server[probe]["httpGet"]["path"]), "ok\n")
        for endpoint in manifests.one("ServiceMonitor")["spec"]["endpoints"]:
            self.assertIn("spotlight_build_info", self.server.get(endpoint["path"]))

    def test_autoscalers_read_metrics_that_are_served(self):
        metrics = [m["pods"]["metric"]["name"] for m in
                   tools.with_values("autoscaling.kind=hpa").one("HorizontalPodAutoscaler")["spec"]["metrics"]]
        for trigger in tools.with_values("autoscaling.kind=keda").one("ScaledObject")["spec"]["triggers"]:
            metrics.append(re.search(r"spotlight_\w+", trigger["metadata"]["query"]).group(0))
        self.assertEqual(len(metrics), 4)
        for metric in metrics:
            self.server.metric(metric)

    def test_the_first_token_objective_is_one_of_the_bucket_boundaries(self):
        helpers = (tools.CHART / "templates/_helpers.tpl").read_text()
        allowed = re.search(r'define "spotlight.firstTokenBounds" -}}\n(.*)\n', helpers).group(1).split(",")
        found = re.findall(r'spotlight_time_to_first_token_seconds_bucket\{.*le="([\d.e-]+)"\}', self.server.get("/metrics"))
        self.assertEqual({float(bound) for bound in allowed}, {float(bound) for bound in found})

    def test_the_route_names_services_that_are_served(self):
        route = tools.render("--values", "deploy/helm/examples/replicas.yaml").one("GRPCRoute")
        names = {match["method"]["service"] for match in route["spec"]["rules"][0]["matches"]}
        self.assertEqual(self.server.client("health", "--service", (names - {"grpc.health.v1.Health"}).pop()).returncode,
                         0)

    def test_the_chart_names_the_programs_version(self):
        import yaml
        version = subprocess.run([programs.SERVER, "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[-1]
        chart = yaml.safe_load((tools.CHART / "Chart.yaml").read_text())
        self.assertEqual([chart["version"], chart["appVersion"]], [version, version])


class HelmTestTest(unittest.TestCase):
    """The pods of `helm test` and of the server as a kubelet would run them: the chart's arguments, with each mounted
    secret in a folder."""

    @classmethod
    def setUpClass(cls):
        tools.need("bin/helm")

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.secrets = {}  # name -> {key: text}

    def mounted(self, pod, container):
        """{mount path: folder with what the pod sees there}"""
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounts = {}
        for mount in container.get("volumeMounts", []):
            secret = volumes[mount["name"]].get("secret")
            if not secret:
                continue
            data = self.secrets[secret["secretName"]]
            folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
            for item in secret.get("items", [{"key": key, "path": key} for key in data]):
                (folder / item["path"]).write_text(data[item["key"]])
            mounts[mount["mountPath"]] = folder
        return mounts

    def arguments(self, pod, container):
        mounts = self.mounted(pod, container)
        for argument in container["args"]:
            for path, folder in mounts.items():
                argument = argument.replace(path + "/", f"{folder}/")
            yield argument

    def run_test(self, manifests):
        """{container: the finished process}, against a server with the chart's own arguments."""
        pod = manifests.pod["spec"]
        flags = [argument for argument in self.arguments(pod, pod["containers"][0])
                 if not re.match(r"--(model|listen|http)=", argument)]
        test = manifests.one("Pod")["spec"]
        with programs.Server(*flags) as server:
            server.wait_ready()
            done = {}
            for container in test["containers"]:
                self.assertEqual(os.path.basename(container["command"][0]), os.path.basename(programs.CLIENT))
                arguments = [f"--server={server.grpc}" if argument == "--server=demo-spotlight:50051" else argument
                             for argument in self.arguments(test, container)]
                self.assertIn(f"--server={server.grpc}", arguments)
                done[container["name"]] = subprocess.run([programs.CLIENT, *arguments], stdout=subprocess.PIPE,
                                                         stderr=subprocess.PIPE, text=True, timeout=60)
            return done

    def issue_certificates(self):
        """An authority, the server's certificate for the service's name, and the test's own."""
        def openssl(*words):
            subprocess.run(["openssl", *words], check=True, cwd=self.folder, stderr=subprocess.DEVNULL)

        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *new_key, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt")
        for name in ("demo-spotlight", "tester"):
            openssl("req", *new_key, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout",
                    f"{name}.key", "-out", f"{name}.csr")
            openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days",
                    "2", "-copy_extensions", "copy", "-out", f"{name}.crt")

        def pair(name):
            return {"tls.crt": (self.folder / f"{name}.crt").read_text(), "ca.crt": (self.folder / "ca.crt").read_text(),
                    "tls.key": (self.folder / f"{name}.key").read_text()}

        self.secrets["own"], self.secrets["mine"] = pair("demo-spotlight"), pair("tester")

    def issue_token(self, token, listed=None):
        digest = hashlib.sha256((listed or token).encode()).hexdigest()
        self.secrets["tokens"] = {"tokens.json": json.dumps(
            {"tokens": [{"name": "tester", "sha256": digest, "scopes": ["generate"]}]})}
        self.secrets["mine"]["token"] = token

    def test_in_plain_text(self):
        done = self.run_test(tools.with_values())
        self.assertEqual({name: each.returncode for name, each in done.items()}, {"health": 0, "generate": 0}, done)
        self.assertEqual(done["health"].stdout, "SERVING\n")
        self.assertIn("+ 1 generated", done["generate"].stderr)

    def test_behind_tls(self):
        self.issue_certificates()
        done = self.run_test(tools.with_values("tls.enabled=true", "tls.secretName=own"))
        self.assertEqual({name: each.returncode for name, each in done.items()}, {"health": 0, "generate": 0}, done)

    MUTUAL = ("tls.enabled=true", "tls.secretName=own", "tls.clientCASecretName=own", "auth.tokensSecretName=tokens",
              "helmTest.tlsSecretName=mine", "helmTest.tokenSecretName=mine")

    def test_behind_mutual_tls_with_tokens(self):
        self.issue_certificates()
        self.issue_token("a-token-0123456789")
        done = self.run_test(tools.with_values(*self.MUTUAL))
        self.assertEqual({name: each.returncode for name, each in done.items()}, {"health": 0, "generate": 0}, done)

    def test_a_token_that_the_server_does_not_know_fails_it(self):
        self.issue_certificates()
        self.issue_token("a-token-0123456789", listed="another-0123456789")
        done = self.run_test(tools.with_values(*self.MUTUAL))
        self.assertEqual({name: each.returncode for name, each in done.items()}, {"health": 0, "generate": 3}, done)


if __name__ == "__main__":
    unittest.main()
