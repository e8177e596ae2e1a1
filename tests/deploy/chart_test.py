"""What the chart's manifests mean, rendered by helm; the values that it must refuse; Kubernetes' own schemas."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, "tests/deploy")
import tools


def matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


class ExamplesTest(unittest.TestCase):

    def test_every_example_passes_lint_and_the_strict_schemas_of_two_kubernetes_versions(self):
        with tempfile.TemporaryDirectory() as folder:
            for version in tools.KUBERNETES:
                files = []
                for example in tools.EXAMPLES:
                    lint = tools.run(tools.FOLDER / "bin/helm", "lint", "--strict", tools.CHART, "--values", example)
                    self.assertEqual(lint.returncode, 0, lint.stdout)
                    done = tools.helm_template("--values", example, version=version)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    files.append(pathlib.Path(folder) / example.name)
                    files[-1].write_text(done.stdout)
                schemas = tools.FOLDER / "schemas"
                found = tools.run(
                    tools.FOLDER / "bin/kubeconform", "-strict", "-output", "json", "-summary",
                    "-kubernetes-version", version, "-schema-location",
                    f"{schemas}/{{{{.NormalizedKubernetesVersion}}}}-local{{{{.StrictSuffix}}}}/"
                    "{{.ResourceKind}}{{.KindSuffix}}.json", "-schema-location",
                    f"{schemas}/crds/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", *files)
                self.assertEqual(found.returncode, 0, found.stdout)
                summary = json.loads(found.stdout)["summary"]
                self.assertGreater(summary["valid"], 4 * len(files))
                self.assertEqual(summary["skipped"], 0)

    def test_a_misspelt_field_fails_the_schema_check(self):
        text = tools.helm_template("--values", tools.EXAMPLES[0]).stdout.replace("readinessProbe:", "readynessProbe:")
        found = tools.run(
            tools.FOLDER / "bin/kubeconform", "-strict", "-kubernetes-version", tools.KUBERNETES[-1],
            "-schema-location", f"{tools.FOLDER}/schemas/{{{{.NormalizedKubernetesVersion}}}}-local"
            "{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json", stdin=text)
        self.assertNotEqual(found.returncode, 0)
        self.assertIn("readynessProbe", found.stdout)

    def test_pods_satisfy_the_restricted_pod_security_standard(self):
        for example in tools.EXAMPLES:
            with self.subTest(example.name):
                for pod in self.pod_specs(tools.render("--values", example)):
                    for key in ("hostNetwork", "hostPID", "hostIPC"):
                        self.assertNotIn(key, pod)
                    self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
                    self.assertGreater(pod["securityContext"]["runAsUser"], 0)
                    self.assertEqual(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault")
                    self.assertIs(pod["automountServiceAccountToken"], False)
                    for container in pod["containers"] + pod.get("initContainers", []):
                        context = container["securityContext"]
                        self.assertIs(context["allowPrivilegeEscalation"], False)
                        self.assertIs(context["readOnlyRootFilesystem"], True)
                        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                    volumes = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
                    allowed = {"emptyDir", "secret", "persistentVolumeClaim"}
                    if example.stem in ("cpu-demo", "h100-node"):
                        allowed.add("hostPath")  # which that standard forbids; README.md says so
                    self.assertLessEqual(volumes, allowed)

    @staticmethod
    def pod_specs(manifests):
        return [manifests.pod["spec"]] + [pod["spec"] for pod in manifests.kind("Pod")]

    def test_selectors_find_the_pods_and_nothing_else(self):
        for example in tools.EXAMPLES:
            with self.subTest(example.name):
                manifests = tools.render("--values", example)
                labels = manifests.pod["metadata"]["labels"]
                selectors = [manifests.one("Deployment")["spec"]["selector"]["matchLabels"]]
                selectors += [service["spec"]["selector"] for service in manifests.kind("Service")]
                selectors += [each["spec"]["selector"]["matchLabels"] for each in manifests.kind("PodDisruptionBudget")]
                selectors += [each["spec"]["podSelector"]["matchLabels"] for each in manifests.kind("NetworkPolicy")]
                for constraint in manifests.pod["spec"].get("topologySpreadConstraints", []):
                    selectors.append(constraint["labelSelector"]["matchLabels"])
                other = tools.render("--values", example, release="spotlight-two").pod["metadata"]["labels"]
                for selector in selectors:
                    self.assertTrue(matches(selector, labels), selector)
                    self.assertFalse(matches(selector, other), "finds another release's pods")
                for test_pod in manifests.kind("Pod"):
                    self.assertFalse(matches(selectors[0], test_pod["metadata"]["labels"]))

    def test_service_ports_lead_to_container_ports(self):
        for example in tools.EXAMPLES:
            manifests = tools.render("--values", example)
            names = {port["name"]: port["containerPort"] for port in manifests.server["ports"]}
            for service in manifests.kind("Service"):
                for port in service["spec"]["ports"]:
                    self.assertIn(port["targetPort"], names)
                    if service["spec"].get("clusterIP") == "None":
                        self.assertEqual(port["port"], names[port["targetPort"]])

    def test_every_file_that_an_argument_names_is_mounted(self):
        for example in tools.EXAMPLES:
            with self.subTest(example.name):
                manifests = tools.render("--values", example)
                mounts = {mount["mountPath"]: mount["name"] for mount in manifests.server["volumeMounts"]}
                volumes = {volume["name"]: volume for volume in manifests.pod["spec"]["volumes"]}
                self.assertEqual(set(mounts.values()), set(volumes))
                for value in manifests.flags.values():
                    if value is True or not value.startswith("/"):
                        continue
                    mount = next(mount for mount in mounts if value.startswith(mount + "/"))
                    secret = volumes[mounts[mount]].get("secret", {})
                    if "items" in secret:
                        self.assertIn(value[len(mount) + 1:], [item["path"] for item in secret["items"]])

    def test_gpus_are_asked_for_in_whole_and_within_limits(self):
        for example in ("h100-node", "replicas", "mtls"):
            limits = tools.render("--values", f"deploy/helm/examples/{example}.yaml").server["resources"]["limits"]
            self.assertEqual(limits["nvidia.com/gpu"], 1)

    def test_a_pod_that_asks_for_a_gpu_serves_on_it_or_not_at_all(self):
        for setting in ("resources.limits.nvidia\\.com/gpu=1", "resources.requests.nvidia\\.com/gpu=1",
                        "resources.limits.nvidia\\.com/mig-3g\\.40gb=1"):
            self.assertEqual(tools.with_values(setting).flags.get("--device"), "cuda:0", setting)
        gpu = "resources.limits.nvidia\\.com/gpu=1"
        for device in ("cpu", "auto", "cuda:1"):  # said is said, and once
            arguments = tools.with_values(gpu, f"server.device={device}").server["args"]
            self.assertEqual([each for each in arguments if "--device" in each], [f"--device={device}"])
        for settings in ([], ["resources.limits.nvidia\\.com/gpu=0"], ["resources=null"]):
            self.assertNotIn("--device", tools.with_values(*settings).flags, settings)


class LifecycleTest(unittest.TestCase):

    def test_the_grace_period_covers_pre_stop_and_drain(self):
        for example in tools.EXAMPLES:
            manifests = tools.render("--values", example)
            sleep = manifests.server["lifecycle"]["preStop"]["sleep"]["seconds"]
            drain = float(manifests.flags["--drain-seconds"])
            self.assertGreaterEqual(manifests.pod["spec"]["terminationGracePeriodSeconds"], sleep + drain)

    def test_a_grace_period_below_pre_stop_and_drain_is_refused(self):
        enough = ["preStopSeconds=7", "server.drainSeconds=20", "terminationGracePeriodSeconds=27"]
        tools.with_values(*enough)
        error = tools.refusal(*enough[:2], "terminationGracePeriodSeconds=26")
        self.assertIn("terminationGracePeriodSeconds is 26", error)
        self.assertIn("preStopSeconds + server.drainSeconds is 27", error)

    def test_plaintext_is_probed_by_the_names_of_the_health_service(self):
        server = tools.with_values().server
        port = next(port["containerPort"] for port in server["ports"] if port["name"] == "grpc")
        for probe, name in (("startup", "readiness"), ("readiness", "readiness"), ("liveness", "liveness")):
            self.assertEqual(server[probe + "Probe"]["grpc"], {"port": port, "service": name})
        self.assertEqual(server["readinessProbe"]["periodSeconds"], 1)

    def test_tls_is_probed_over_http(self):
        server = tools.with_values("tls.enabled=true", "tls.secretName=s").server
        for probe, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/healthz")):
            self.assertEqual(server[probe + "Probe"]["httpGet"], {"port": "http", "path": path})
            self.assertNotIn("grpc", server[probe + "Probe"])

    def test_the_startup_probe_waits_for_the_model_and_the_rollout_for_the_probe(self):
        for seconds in (1, 58, 600, 3601):
            manifests = tools.with_values(f"model.loadSeconds={seconds}")
            probe = manifests.server["startupProbe"]
            self.assertGreaterEqual(probe["periodSeconds"] * probe["failureThreshold"], seconds)
            self.assertLess(probe["periodSeconds"] * probe["failureThreshold"], seconds + 2 * probe["periodSeconds"])
            self.assertGreater(manifests.one("Deployment")["spec"]["progressDeadlineSeconds"], seconds)

    def test_zero_pre_stop_seconds_leave_the_hook_out(self):
        self.assertNotIn("lifecycle", tools.with_values("preStopSeconds=0").server)


class NetworkTest(unittest.TestCase):

    def test_without_tls_plaintext_is_said_aloud_and_with_tls_it_is_not_allowed(self):
        self.assertIn("--allow-insecure", tools.with_values().flags)
        flags = tools.with_values("tls.enabled=true", "tls.secretName=s").flags
        self.assertNotIn("--allow-insecure", flags)
        self.assertIn("--tls-cert", flags)

    def test_the_policy_lets_in_what_was_named_and_nothing_out(self):
        policy = tools.with_values("networkPolicy.enabled=true").one("NetworkPolicy")["spec"]
        self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
        self.assertEqual(policy["egress"], [])
        self.assertEqual({rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]},
                         {"grpc": [{"podSelector": {}}], "http": [{"namespaceSelector": {}}]})
        policy = tools.render("--values", "deploy/helm/examples/replicas.yaml").one("NetworkPolicy")["spec"]
        for rule in policy["ingress"]:
            self.assertNotIn({"podSelector": {}}, rule["from"])
        ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
        self.assertEqual(ports, {53, 443})  # the download

    def test_the_policy_lets_the_charts_own_test_in(self):
        manifests = tools.render("--values", "deploy/helm/examples/mtls.yaml")
        labels = manifests.one("Pod")["metadata"]["labels"]
        rule = next(rule for rule in manifests.one("NetworkPolicy")["spec"]["ingress"] if rule["ports"][0]["port"] == "grpc")
        peers = [peer["podSelector"].get("matchLabels", {}) for peer in rule["from"] if "podSelector" in peer]
        self.assertEqual([matches(peer, labels) for peer in peers], [False, True])
        other = tools.render("--values", "deploy/helm/examples/mtls.yaml", release="other").one("Pod")["metadata"]["labels"]
        self.assertFalse(any(matches(peer, other) for peer in peers), "lets in another release's test")

    def test_a_headless_service_has_an_address_per_pod_and_is_not_scraped_twice(self):
        manifests = tools.with_values("service.headless=true", "serviceMonitor.enabled=true")
        services = manifests.kind("Service")
        self.assertEqual([service["spec"].get("clusterIP") for service in services], [None, "None"])
        monitor = manifests.one("ServiceMonitor")["spec"]
        scraped = [s for s in services if matches(monitor["selector"]["matchLabels"], s["metadata"]["labels"])]
        self.assertEqual([service["metadata"]["name"] for service in scraped], ["demo-spotlight"])
        self.assertIn(monitor["endpoints"][0]["port"], [port["name"] for port in scraped[0]["spec"]["ports"]])

    def test_the_route_leads_to_the_service_and_only_to_the_public_api(self):
        manifests = tools.render("--values", "deploy/helm/examples/replicas.yaml")
        rule = manifests.one("GRPCRoute")["spec"]["rules"][0]
        backend = rule["backendRefs"][0]
        service = next(s for s in manifests.kind("Service") if s["metadata"]["name"] == backend["name"])
        self.assertIn((backend["port"], "grpc"), [(p["port"], p["name"]) for p in service["spec"]["ports"]])
        self.assertEqual({match["method"]["service"] for match in rule["matches"]},
                         {"spotlight.v1.Generation", "grpc.health.v1.Health"})

    def test_scaling_leaves_the_replica_count_to_the_autoscaler(self):
        self.assertEqual(tools.with_values("replicas=3").one("Deployment")["spec"]["replicas"], 3)
        for kind, made in (("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")):
            manifests = tools.with_values(f"autoscaling.kind={kind}")
            self.assertNotIn("replicas", manifests.one("Deployment")["spec"])
            self.assertEqual(manifests.one(made)["spec"]["scaleTargetRef"]["name"],
                             manifests.one("Deployment")["metadata"]["name"])

    def test_scaling_asks_for_series_of_this_release(self):
        scaled = tools.with_values("autoscaling.kind=keda").one("ScaledObject")["spec"]["triggers"]
        queries = [trigger["metadata"]["query"] for trigger in scaled]
        self.assertEqual(queries, ['sum(spotlight_requests_%s{namespace="inference",service="demo-spotlight"})' % state
                                   for state in ("waiting", "running")])


class ModelTest(unittest.TestCase):

    def test_a_downloaded_model_lands_where_the_server_looks(self):
        manifests = tools.render("--values", "deploy/helm/examples/replicas.yaml")
        download = manifests.pod["spec"]["initContainers"][0]
        env = {entry["name"]: entry for entry in download["env"]}
        self.assertEqual(env["MODEL"]["value"], manifests.flags["--model"])
        self.assertEqual(json.loads(env["INCLUDE"]["value"]), ["*.json", "*.safetensors", "*.jinja"])
        self.assertEqual(env["HF_TOKEN"]["valueFrom"]["secretKeyRef"], {"name": "hugging-face", "key": "token"})
        mounts = [{m["name"]: m for m in c["volumeMounts"]}["model"] for c in (download, manifests.server)]
        self.assertEqual(mounts[0]["mountPath"], mounts[1]["mountPath"])
        self.assertEqual([mount.get("readOnly", False) for mount in mounts], [False, True])
        compile(re.search(r"<<'PY'\n(.*)PY\n", download["args"][0], re.S).group(1), "download", "exec")
        self.assertEqual(subprocess.run(["sh", "-n", "-c", download["args"][0]]).returncode, 0)

    def test_without_a_volume_a_download_goes_to_an_empty_folder(self):
        manifests = tools.render("--set", "model.path=/models/x", "--set", "model.download.enabled=true", "--set",
                                 "model.download.repository=a/b")
        self.assertIn({"name": "model", "emptyDir": {}}, manifests.pod["spec"]["volumes"])
        self.assertNotIn("HF_TOKEN", [entry["name"] for entry in manifests.pod["spec"]["initContainers"][0]["env"]])

    def test_the_image_is_named_by_digest_before_tag_before_version(self):
        import yaml
        version = yaml.safe_load((tools.CHART / "Chart.yaml").read_text())["appVersion"]
        self.assertEqual(tools.with_values().server["image"], "spotlight:" + version)
        self.assertEqual(tools.with_values("image.tag=x").server["image"], "spotlight:x")
        digest = "sha256:" + "0" * 64
        self.assertEqual(tools.with_values("image.tag=x", "image.digest=" + digest).server["image"],
                         "spotlight@" + digest)


class HelmTestTest(unittest.TestCase):
    """Which credentials `helm test` has; flags_test.py runs its commands."""

    SECURE = ("tls.enabled=true", "tls.secretName=own", "auth.tokensSecretName=tokens")

    def secrets(self, *settings):
        """{container: its command}, {mounted secret: its keys}"""
        pod = tools.with_values(*settings).one("Pod")["spec"]
        volumes = {volume["secret"]["secretName"]: [item["key"] for item in volume["secret"]["items"]]
                   for volume in pod.get("volumes", [])}
        return [container["name"] for container in pod["containers"]], volumes

    def test_in_plain_text_it_asks_for_health_and_a_token_without_any_secret(self):
        self.assertEqual(self.secrets(), (["health", "generate"], {}))

    def test_behind_tls_it_trusts_the_authority_of_the_servers_secret_and_never_mounts_its_key(self):
        self.assertEqual(self.secrets("tls.enabled=true", "tls.secretName=own"),
                         (["health", "generate"], {"own": ["ca.crt"]}))

    def test_where_tokens_are_asked_for_it_needs_one_to_generate(self):
        self.assertEqual(self.secrets(*self.SECURE), (["health"], {"own": ["ca.crt"]}))
        self.assertEqual(self.secrets(*self.SECURE, "helmTest.tokenSecretName=mine"),
                         (["health", "generate"], {"own": ["ca.crt"], "mine": ["token"]}))

    def test_where_clients_need_certificates_it_has_one_of_its_own_or_is_left_out(self):
        mutual = (*self.SECURE, "tls.clientCASecretName=clients")
        self.assertEqual(tools.with_values(*mutual).kind("Pod"), [])
        self.assertEqual(self.secrets(*mutual, "helmTest.tlsSecretName=mine"),
                         (["health"], {"mine": ["ca.crt", "tls.crt", "tls.key"]}))

    def test_it_runs_where_the_servers_image_is(self):
        manifests = tools.render("--values", "deploy/helm/examples/h100-node.yaml")
        for key in ("nodeSelector", "tolerations"):
            self.assertEqual(manifests.one("Pod")["spec"][key], manifests.pod["spec"][key])
        self.assertNotIn("nvidia.com/gpu", str(manifests.one("Pod")["spec"]["containers"]))


class ObservabilityTest(unittest.TestCase):

    def rule(self, *settings):
        spec = tools.with_values("prometheusRule.enabled=true", *settings).one("PrometheusRule")["spec"]
        return {rule.get("alert") or rule["record"]: rule for group in spec["groups"] for rule in group["rules"]}

    def test_the_rules_are_those_of_the_file_with_the_objective_put_in(self):
        import yaml
        plain = {rule.get("alert") or rule["record"]: rule
                 for group in yaml.safe_load(tools.RULES.read_text())["groups"] for rule in group["rules"]}
        made = self.rule("prometheusRule.firstToken.seconds=10", "prometheusRule.firstToken.objective=0.95")
        self.assertEqual(set(made), set(plain))
        for name, rule in plain.items():
            expected = rule["expr"].replace('le="2.5"', 'le=~"10(\\\\.0)?"').replace("0.99)", "0.95)")
            if "quantile" in rule["expr"]:
                expected = rule["expr"]
            self.assertEqual(made[name]["expr"], expected)
        self.assertIn("later than 10 s", made["SpotlightFirstTokenBurnFast"]["annotations"]["summary"])
        self.assertIn('le=~"2\\\\.5(\\\\.0)?"', self.rule()["spotlight:first_token_late:ratio_rate1h"]["expr"])
        chosen = self.rule("server.histogramBuckets=time_to_first_token_seconds=.5\\,3",
                           "prometheusRule.firstToken.seconds=3")
        self.assertIn('le=~"3(\\\\.0)?"', chosen["spotlight:first_token_late:ratio_rate1h"]["expr"])

    def test_alerts_can_be_disabled_overridden_and_linked_by_name(self):
        rules = self.rule("prometheusRule.disabled={SpotlightNoHash}", "prometheusRule.runbookUrl=https://x/runbook.md",
                          "prometheusRule.overrides.SpotlightDown.for=9m",
                          "prometheusRule.overrides.SpotlightDown.labels.team=ml")
        self.assertNotIn("SpotlightNoHash", rules)
        self.assertEqual(rules["SpotlightDown"]["for"], "9m")
        self.assertEqual(rules["SpotlightDown"]["labels"], {"severity": "critical", "team": "ml"})
        self.assertEqual(rules["SpotlightDown"]["annotations"]["runbook_url"], "https://x/runbook.md#spotlightdown")
        for setting in ("disabled={SpotlightDwon}", "overrides.SpotlightDwon.for=1m"):
            self.assertIn("no alert SpotlightDwon",
                          tools.refusal("prometheusRule.enabled=true", "prometheusRule." + setting))

    def test_dashboards_come_as_config_maps_that_the_sidecar_selects(self):
        maps = tools.with_values("dashboards.enabled=true", "dashboards.labels.more=x").kind("ConfigMap")
        files = sorted(path.name for path in (tools.CHART / "dashboards").glob("*.json"))
        self.assertEqual(sorted(name for each in maps for name in each["data"]), ["spotlight-" + name for name in files])
        for each in maps:
            self.assertEqual(each["metadata"]["labels"]["grafana_dashboard"], "1")
            self.assertEqual(each["metadata"]["labels"]["more"], "x")
            for text in each["data"].values():
                self.assertLess(len(text), 900_000)  # a ConfigMap holds a MiB
                self.assertTrue(json.loads(text)["panels"])


class RefusalTest(unittest.TestCase):

    def test_what_contradicts_itself_is_refused_with_the_reason(self):
        for settings, words in (
                (["model.path="], "model.path"),
                (["model.path=/elsewhere/x", "model.volume.emptyDir.medium="], "not below model.mountPath"),
                (["model.download.enabled=true"], "model.download.repository"),
                (["tls.enabled=true"], "tls.secretName"),
                (["server.connectionGraceSeconds=9"], "server.maxConnectionAgeSeconds"),
                (["tls.clientCASecretName=ca"], "tls.enabled"),
                (["auth.tokensSecretName=tokens"], "plain text"),
                (["helmTest.tlsSecretName=mine"], "tls.enabled"),
                (["helmTest.tokenSecretName=mine"], "auth.tokensSecretName"),
                (["autoscaling.minReplicas=9"], "above autoscaling.maxReplicas"),
                (["grpcRoute.enabled=true"], "grpcRoute.parentRefs"),
                (["prometheusRule.enabled=true", "prometheusRule.firstToken.seconds=3"],
                 "prometheusRule.firstToken.seconds 3 is none of the bounds"),
                (["prometheusRule.enabled=true",
                  "server.histogramBuckets=spotlight_time_to_first_token_seconds=.5\\,3;step_seconds=2.5"],
                 "prometheusRule.firstToken.seconds 2.5 is none of the bounds of time_to_first_token_seconds: .5,3"),
        ):
            with self.subTest(words):
                self.assertIn(words, tools.refusal(*settings))

    def test_misspelt_and_wrong_values_are_refused_by_the_schema(self):
        for setting, words in (("replica=2", "replica"), ("server.maxruning=2", "maxruning"),
                               ("model.hostPath=/x", "hostPath"), ("replicas=two", "replicas"),
                               ("server.budget=1.5", "budget"), ("server.device=gpu", "device"),
                               ("image.pullPolicy=Sometimes", "pullPolicy"), ("autoscaling.kind=vpa", "kind"),
                               ("prometheusRule.firstToken.seconds=-1", "seconds"),
                               ("server.histogramBuckets=step_seconds", "histogramBuckets"), ("service.grpcPort=70000", "grpcPort"),
                               ("probes.readiness.initialDelay=1", "initialDelay")):
            with self.subTest(setting):
                error = tools.refusal(setting)
                self.assertIn("don't meet the specifications of the schema", error)
                self.assertIn(words, error)

    def test_the_schema_knows_exactly_the_keys_of_values_yaml(self):
        import yaml
        schema = json.loads((tools.CHART / "values.schema.json").read_text())

        def compare(values, node, path):
            if "properties" not in node:
                return
            self.assertIs(node.get("additionalProperties"), False, path)
            optional = {"global", "medium", "claims"}
            self.assertEqual(set(values), set(node["properties"]) - (optional - set(values)), path)
            for key, value in values.items():
                if isinstance(value, dict):
                    compare(value, node["properties"][key], f"{path}.{key}")

        compare(yaml.safe_load((tools.CHART / "values.yaml").read_text()), schema, "values")

    def test_every_value_is_described_in_a_fresh_readme(self):
        done = tools.run(sys.executable, "deploy/helm/readme.py", "--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        sys.path.insert(0, "deploy/helm")
        import readme
        import yaml
        text = (tools.CHART / "values.yaml").read_text()
        described = {key for key, _, _ in readme.entries(text)}

        def leaves(values, path=""):
            for key, value in values.items():
                here = path + key
                if here in described:
                    continue
                self.assertTrue(isinstance(value, dict) and value, f"{here} has no description")
                leaves(value, here + ".")

        leaves(yaml.safe_load(text))


def setUpModule():
    tools.need("bin/helm", "bin/kubeconform", "schemas")


if __name__ == "__main__":
    unittest.main()
