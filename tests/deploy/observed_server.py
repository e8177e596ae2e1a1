"""The real server under mixed traffic, watched by a real Prometheus that scrapes every second.

As a program, with Bazel's programs in bin/: observed_server.py SECONDS COMMAND... runs the traffic for so long, then the
command with PROMETHEUS_URL in its environment (deploy/grafana/draw.py draws the documentation's pictures so)."""
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

sys.path[:0] = ["tests/deploy", "tests/integration"]
import programs
import tools

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: spotlight
    static_configs: [{{targets: ["{target}"]}}]
"""
SERVER_FLAGS = ("--allow-untrained-hash", "--sparse-min-context", "256", "--max-tokens-in-cache", "4096",
                "--max-running", "6", "--max-waiting-requests", "4", "--quality-sample-every", "2", "--quality-floor",
                "0.5", "--max-step-tokens", "256")


def tls_flags(folder):
    """(server's flags, client's flags) of a connection over TLS with a certificate of our own."""
    certificate, key = f"{folder}/server.crt", f"{folder}/server.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "30", "-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out",
                    certificate], check=True, stderr=subprocess.DEVNULL)
    return ("--tls-cert", certificate, "--tls-key", key), ("--tls-ca", certificate)


class Prometheus:
    """On a port of its own, its data in `folder`. Use as a context manager."""

    def __init__(self, folder, target):
        config = pathlib.Path(folder) / "prometheus.yaml"
        config.write_text(CONFIG.format(rules=tools.RULES.resolve(), target=target.replace("http://", "")))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = open(f"{folder}/prometheus.log", "w+")
        self.process = subprocess.Popen(
            [tools.FOLDER / "bin/prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"], stdout=self._log, stderr=self._log)

    def api(self, path, **parameters):
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression):
        return self.api("query", query=expression)["result"]

    def wait_for(self, expression, seconds=60):
        """Until the expression returns data; bounded."""
        deadline = time.time() + seconds
        while time.time() < deadline:
            try:
                if result := self.query(expression):
                    return result
            except OSError:
                if self.process.poll() is not None:
                    self._log.seek(0)
                    raise AssertionError(self._log.read())
            time.sleep(0.2)
        raise AssertionError(f"no data after {seconds} s: {expression}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._log.close()


class Traffic:
    """Clients of every kind, for as long as it is open: short and long prompts, sparse and dense, some that leave, run
    into their deadline or ask for what cannot be, and bursts that fill queue and cache."""

    def __init__(self, server, client_flags):
        self._server = server
        self._flags = client_flags
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kind, seed)) for seed, kind in enumerate(
            [self._short, self._short, self._long, self._leaves, self._refused, self._burst])]
        for thread in self._threads:
            thread.start()

    def _client(self, *flags):
        return subprocess.Popen([programs.CLIENT, "generate", "--server", self._server.grpc, "--ignore-eos", *self._flags, *flags],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _run(self, kind, seed):
        chance = random.Random(seed)
        while not self._stop.is_set():
            kind(chance)
            self._stop.wait(chance.uniform(0.1, 0.5))

    def _prompt(self, chance, length):
        return ("--token-ids", ",".join(str(chance.randrange(5, 400)) for _ in range(length)))

    def _short(self, chance):
        self._client("--prompt", "Once upon a time", "--max-tokens", str(chance.randrange(8, 64))).wait()

    def _long(self, chance):
        length, mode = chance.randrange(400, 1500), chance.choice(["auto", "sparse", "dense"])
        self._client(*self._prompt(chance, length), "--max-tokens", "48", "--retrieval", mode).wait()

    def _leaves(self, chance):
        gone = self._client(*self._prompt(chance, 200), "--max-tokens", "3000")
        self._stop.wait(chance.uniform(0.3, 0.8))
        gone.kill()
        gone.wait()
        self._client("--prompt", "The keeper", "--max-tokens", "4000", "--deadline", "0.3").wait()

    def _refused(self, chance):
        self._client("--prompt", "x", "--temperature", "0", "--stop-token-id", "99999999").wait()
        self._client(*self._prompt(chance, 4500), "--max-tokens", "100").wait()
        self._stop.wait(1)

    def _burst(self, chance):
        burst = [self._client(*self._prompt(chance, 700), "--max-tokens", "300") for _ in range(14)]
        for client in burst:
            client.wait()
        self._stop.wait(4)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def observed(folder):
    """(server, Prometheus, client's flags); the first two to be used as context managers."""
    server_flags, client_flags = tls_flags(folder)
    server = programs.Server("--hash", programs.untrained_hash(folder), *SERVER_FLAGS, *server_flags)
    server.wait_ready()
    return server, Prometheus(folder, server.http), client_flags


def main():
    programs.SERVER, programs.CLIENT, programs.MAKE_HASH = (
        f"bin/{pathlib.Path(path).name}" for path in (programs.SERVER, programs.CLIENT, programs.MAKE_HASH))
    with tempfile.TemporaryDirectory() as folder:
        server, prometheus, client_flags = observed(folder)
        with server, prometheus:
            with Traffic(server, client_flags):
                time.sleep(float(sys.argv[1]))
            time.sleep(2)
            subprocess.run(sys.argv[2:], check=True, env={**os.environ, "PROMETHEUS_URL": prometheus.url})


if __name__ == "__main__":
    main()
