"""A Kubernetes API server of its own with its etcd, on free ports of loopback. Objects are validated, admitted and stored;
there is no controller and no kubelet, so nothing runs."""
import json
import pathlib
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import tools

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "{url}", insecure-skip-tls-verify: true}}}}]
users: [{{name: admin, user: {{token: admin-token}}}}]
contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]
current-context: test
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:

    def __init__(self, apiserver, folder):
        self._folder = pathlib.Path(folder)
        self._processes = []
        client, peer, api = free_ports(3)
        self.url = f"https://127.0.0.1:{api}"
        self.kubeconfig = self._folder / "kubeconfig"
        self.kubeconfig.write_text(KUBECONFIG.format(url=self.url))
        (self._folder / "tokens.csv").write_text('admin-token,admin,admin,"system:masters"\n')
        subprocess.run(["openssl", "genrsa", "-out", self._folder / "sa.key", "2048"], check=True,
                       stderr=subprocess.DEVNULL)
        etcd = f"http://127.0.0.1:{client}"
        self._start("etcd", tools.FOLDER / "bin/etcd", "--data-dir", self._folder / "etcd", "--listen-client-urls", etcd,
                    "--advertise-client-urls", etcd, "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                    "--unsafe-no-fsync")
        self._start("apiserver", apiserver, f"--etcd-servers={etcd}", f"--secure-port={api}", "--bind-address=127.0.0.1",
                    "--advertise-address=127.0.0.1", f"--cert-dir={self._folder}/certs",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={self._folder}/sa.key",
                    f"--service-account-signing-key-file={self._folder}/sa.key",
                    "--service-cluster-ip-range=10.96.0.0/16", f"--token-auth-file={self._folder}/tokens.csv",
                    "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount")

    def _start(self, name, *command):
        log = open(self._folder / f"{name}.log", "w")
        self._processes.append(subprocess.Popen([str(word) for word in command], stdout=log, stderr=log))
        log.close()

    def wait_ready(self, seconds=120):
        deadline = time.time() + seconds
        while time.time() < deadline:
            for process in self._processes:
                if process.poll() is not None:
                    raise AssertionError((self._folder / "apiserver.log").read_text()[-3000:])
            try:
                if self.call("GET", "/readyz", text=True) == "ok":
                    return self
            except (OSError, urllib.error.HTTPError):
                pass
            time.sleep(0.3)
        raise AssertionError("the API server is not ready:\n" + (self._folder / "apiserver.log").read_text()[-3000:])

    def call(self, method, path, body=None, text=False):
        """The answer's object. HTTPError where the API server refuses."""
        request = urllib.request.Request(self.url + path, method=method, headers={
            "Authorization": "Bearer admin-token", "Content-Type": "application/json"},
            data=None if body is None else json.dumps(body).encode())
        context = ssl._create_unverified_context()
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return answer.read().decode() if text else json.load(answer)

    def resource_paths(self):
        """{(apiVersion, kind): (path of the group and version, plural, whether it has a namespace)}"""
        found = {}
        groups = [f"/apis/{version['groupVersion']}" for group in self.call("GET", "/apis")["groups"]
                  for version in group["versions"]]
        for path in ["/api/v1"] + groups:
            listed = self.call("GET", path)
            for resource in listed["resources"]:
                if "/" not in resource["name"]:
                    found[listed["groupVersion"], resource["kind"]] = (path, resource["name"], resource["namespaced"])
        return found

    def helm(self, *command):
        environment = ["env", f"KUBECONFIG={self.kubeconfig}", f"HOME={self._folder}"]
        return tools.run(*environment, tools.FOLDER / "bin/helm", *command)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
