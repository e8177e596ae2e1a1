"""The chart in a real Kubernetes API server: installed, upgraded, rolled back, removed; what it refuses; and what pod
security admission says to its pods."""
import json
import os
import subprocess
import sys
import tempfile
import unittest
import urllib.error

sys.path.insert(0, "tests/deploy")
import cluster
import tools

SECURE = [example for example in tools.EXAMPLES if example.stem in ("mtls", "replicas")]
HOST_PATH = [example for example in tools.EXAMPLES if example not in SECURE]


class ClusterTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        tools.need("bin/helm", "bin/etcd", "crds")
        apiserver = subprocess.run(["deploy/tools/kube_apiserver/build.sh", "--where"], stdout=subprocess.PIPE, check=True,
                                   text=True).stdout.strip()
        if not os.path.exists(apiserver):
            reason = "kube-apiserver has not been built: deploy/tools/kube_apiserver/build.sh (8 minutes, once)"
            print(f"SKIPPED: {os.environ.get('TEST_TARGET', 'this test')}: {reason}", flush=True)
            raise unittest.SkipTest(reason)
        cls.api = cluster.Cluster(apiserver, tempfile.mkdtemp())
        cls.addClassCleanup(cls.api.__exit__)
        cls.api.wait_ready()
        import yaml
        for path in sorted((tools.FOLDER / "crds").glob("*.yaml")):
            for definition in yaml.safe_load_all(path.read_text()):
                cls.api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        wanted = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "GRPCRoute"}
        for _ in range(100):
            cls.paths = cls.api.resource_paths()
            if wanted <= {kind for _, kind in cls.paths}:
                break
        else:
            raise AssertionError("the custom resources are not served")
        for namespace in ("walk", "refused", "scaled"):
            cls.namespace(namespace)

    @classmethod
    def namespace(cls, name, **labels):
        cls.api.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace",
                                                    "metadata": {"name": name, "labels": labels}})

    def helm(self, *command):
        done = self.api.helm(*command)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def get(self, namespace, kind, api_version, name=""):
        path, plural, _ = self.paths[api_version, kind]
        return self.api.call("GET", f"{path}/namespaces/{namespace}/{plural}/{name}")

    def create(self, namespace, manifest):
        """As kubectl create --dry-run=server --validate=strict would."""
        path, plural, namespaced = self.paths[manifest["apiVersion"], manifest["kind"]]
        self.assertTrue(namespaced, manifest["kind"])
        return self.api.call("POST", f"{path}/namespaces/{namespace}/{plural}?dryRun=All&fieldValidation=Strict", manifest)

    def test_every_object_of_every_example_is_admitted_as_it_is(self):
        for example in tools.EXAMPLES:
            for manifest in tools.render("--values", example):
                manifest["metadata"].pop("namespace", None)
                with self.subTest(f"{example.name}: {manifest['kind']}"):
                    try:
                        self.create("walk", manifest)
                    except urllib.error.HTTPError as refused:
                        self.fail(json.load(refused)["message"])

    def test_a_misspelt_field_is_not_admitted(self):
        manifest = tools.with_values().one("Deployment")
        manifest["spec"]["template"]["spec"]["terminationGracePeriod"] = 9
        with self.assertRaises(urllib.error.HTTPError) as refused:
            self.create("walk", manifest)
        self.assertIn("terminationGracePeriod", json.load(refused.exception)["message"])
        refused.exception.close()

    def test_install_upgrade_roll_back_and_remove(self):
        def server():
            spec = self.get("walk", "Deployment", "apps/v1", "demo-spotlight")["spec"]
            return spec["replicas"], spec["template"]["spec"]["terminationGracePeriodSeconds"]

        values = ("--namespace", "walk", "--values", "deploy/helm/examples/cpu-demo.yaml")
        notes = self.helm("install", "demo", tools.CHART, *values)
        self.assertIn("demo-spotlight.walk.svc:50051", notes)
        self.assertIn("not encrypted", notes)
        self.assertEqual(server(), (1, 45))

        # Everything switched on: selectors must not change, or the API server refuses.
        everything = ("--set", "serviceMonitor.enabled=true,prometheusRule.enabled=true,dashboards.enabled=true",
                      "--set", "networkPolicy.enabled=true,service.headless=true,podDisruptionBudget.enabled=true",
                      "--set", "replicas=3,server.drainSeconds=60,terminationGracePeriodSeconds=70",
                      "--set", "grpcRoute.enabled=true,grpcRoute.parentRefs[0].name=gateway")
        self.helm("upgrade", "demo", tools.CHART, *values, *everything)
        self.assertEqual(server(), (3, 70))
        rules = self.get("walk", "PrometheusRule", "monitoring.coreos.com/v1", "demo-spotlight")
        self.assertGreater(len(rules["spec"]["groups"]), 3)
        self.assertEqual(self.get("walk", "Service", "v1", "demo-spotlight-headless")["spec"]["clusterIP"], "None")

        refused = self.api.helm("upgrade", "demo", tools.CHART, *values, *everything, "--set",
                                "terminationGracePeriodSeconds=64")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("terminationGracePeriodSeconds is 64", refused.stderr)
        self.assertEqual(server(), (3, 70))

        self.helm("rollback", "demo", "1", "--namespace", "walk")
        self.assertEqual(server(), (1, 45))
        self.assertEqual(self.get("walk", "PrometheusRule", "monitoring.coreos.com/v1")["items"], [])
        history = json.loads(self.helm("history", "demo", "--namespace", "walk", "--output", "json"))
        self.assertEqual([entry["status"] for entry in history], ["superseded", "superseded", "deployed"])

        self.helm("uninstall", "demo", "--namespace", "walk")
        for kind, version in (("Deployment", "apps/v1"), ("ConfigMap", "v1"), ("ServiceAccount", "v1")):
            self.assertEqual(self.get("walk", kind, version)["items"], [], kind)

    def test_bad_values_leave_nothing_behind(self):
        for setting in ("replicas=two", "server.maxruning=3", "model.path=", "preStopSeconds=60"):
            done = self.api.helm("install", "bad", tools.CHART, "--namespace", "refused", "--values",
                                 "deploy/helm/examples/cpu-demo.yaml", "--set", setting)
            self.assertNotEqual(done.returncode, 0, setting)
        self.assertEqual(json.loads(self.helm("list", "--all", "--namespace", "refused", "--output", "json")), [])
        self.assertEqual(self.get("refused", "Deployment", "apps/v1")["items"], [])

    def test_an_upgrade_leaves_the_replicas_that_an_autoscaler_chose(self):
        values = ("--namespace", "scaled", "--values", "deploy/helm/examples/mtls.yaml")
        self.helm("install", "scaled", tools.CHART, *values)
        path = "/apis/apps/v1/namespaces/scaled/deployments/scaled-spotlight/scale"
        scale = self.api.call("GET", path)
        scale["spec"]["replicas"] = 4
        self.api.call("PUT", path, scale)
        self.helm("upgrade", "scaled", tools.CHART, *values, "--set", "preStopSeconds=6")
        spec = self.get("scaled", "Deployment", "apps/v1", "scaled-spotlight")["spec"]
        self.assertEqual(spec["replicas"], 4)
        container = spec["template"]["spec"]["containers"][0]
        self.assertEqual(container["lifecycle"]["preStop"]["sleep"]["seconds"], 6)

    def test_pod_security_admission_takes_the_pods_but_for_host_paths(self):
        self.namespace("restricted", **{"pod-security.kubernetes.io/enforce": "restricted"})

        def pods(example):
            manifests = tools.render("--values", example)
            template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"}, "spec": manifests.pod["spec"]}
            template["spec"].pop("runtimeClassName", None)  # no such class here
            return [template] + manifests.kind("Pod")

        for example in SECURE:
            for pod in pods(example):
                pod["metadata"].pop("namespace", None)
                self.create("restricted", pod)
        for example in HOST_PATH:
            with self.assertRaises(urllib.error.HTTPError) as refused:
                self.create("restricted", pods(example)[0])
            self.assertIn("hostPath", json.load(refused.exception)["message"])
            refused.exception.close()


if __name__ == "__main__":
    unittest.main()
