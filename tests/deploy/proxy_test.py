"""Three replicas behind a real HAProxy under load: calls spread, a replica that is drained as the chart drains it loses none,
one that is killed loses only what ran on it."""
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path[:0] = ["tests/deploy", "tests/integration"]
import programs
import tools

NUM_CLIENTS = 4


class Load:
    """Clients that send one stream after another through the proxy until they are stopped."""

    def __init__(self, address):
        self._address = address
        self._stop = threading.Event()
        self.calls = []  # (start, end, exit code, tokens received, stderr)
        self._threads = [threading.Thread(target=self._run) for _ in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        while not self._stop.is_set():
            start = time.time()
            done = subprocess.run([programs.CLIENT, "generate", "--server", self._address, "--prompt", "Once upon a time",
                                   "--max-tokens", "100", "--ignore-eos", "--json"], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
            self.calls.append((start, time.time(), done.returncode, done.stdout.count('"token_ids"'), done.stderr.strip()))

    def wait_for(self, count):
        """Until so many more calls have ended."""
        wanted = len(self.calls) + count
        deadline = time.time() + 60
        while len(self.calls) < wanted:
            assert time.time() < deadline, "no calls end"
            time.sleep(0.02)

    def failed(self):
        return [call for call in self.calls if call[2] != 0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


class ProxyTest(unittest.TestCase):

    def setUp(self):
        tools.need("bin/haproxy")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.servers = [programs.Server() for _ in range(3)]
        for server in self.servers:
            self.addCleanup(server.__exit__)
            server.wait_ready()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        self.admin = folder.name + "/admin.sock"
        config = pathlib.Path("deploy/proxy/haproxy.cfg").read_text()
        config = config.replace("/run/haproxy/admin.sock", self.admin).replace("127.0.0.1:50050", self.address)
        addresses = iter([f"{server.grpc} port {server.http.rsplit(':', 1)[1]}" for server in self.servers])
        config = re.sub(r"(?m)^(  server \w) .*$", lambda line: f"{line.group(1)} {next(addresses)}", config)
        path = pathlib.Path(folder.name) / "haproxy.cfg"
        path.write_text(config)
        log = open(folder.name + "/log", "w+")
        self.addCleanup(log.close)
        # Its shell's exec leaves one process, which this test ends.
        self.proxy = subprocess.Popen([tools.FOLDER / "bin/haproxy", "-db", "-f", path], stdout=log, stderr=log)
        self.addCleanup(self.proxy.wait)
        self.addCleanup(self.proxy.kill)
        deadline = time.time() + 20
        while not pathlib.Path(self.admin).exists() or self.command("show stat").count("L7OK") < 3:
            self.assertIsNone(self.proxy.poll(), pathlib.Path(folder.name, "log").read_text())
            self.assertLess(time.time(), deadline, "the proxy does not find its servers")
            time.sleep(0.05)

    def command(self, words):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(self.admin)
            admin.sendall(words.encode() + b"\n")
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    def served(self):
        return [server.metric('spotlight_requests_total{method="GenerateStream",grpc_code="OK",finish_reason="length"}')
                for server in self.servers]

    def test_a_replica_that_is_drained_as_the_chart_drains_it_loses_no_call(self):
        with Load(self.address) as load:
            load.wait_for(3 * NUM_CLIENTS)
            self.assertTrue(all(self.served()), f"calls are not spread: {self.served()}")
            # The pod's deletion takes it out of the endpoints; preStop waits until every proxy knows; then SIGTERM.
            self.command("set server spotlight/a state drain")
            time.sleep(0.2)
            self.assertEqual(self.servers[0].stop(), 0)
            load.wait_for(3 * NUM_CLIENTS)
        self.assertEqual(load.failed(), [])
        self.assertTrue(all(call[3] for call in load.calls))

    def test_without_that_pause_calls_are_refused_before_they_begin_and_none_is_cut(self):
        with Load(self.address) as load:
            load.wait_for(2 * NUM_CLIENTS)
            self.assertEqual(self.servers[0].stop(), 0)
            load.wait_for(3 * NUM_CLIENTS)
        for call in load.failed():
            self.assertEqual((call[2], call[3]), (5, 0), f"not a refusal that may be retried: {call}")
        ended = max((call[1] for call in load.failed()), default=0)
        self.assertTrue([call for call in load.calls if call[0] > ended and call[2] == 0], "it does not recover")

    def test_a_replica_that_is_killed_loses_only_what_ran_on_it(self):
        with Load(self.address) as load:
            load.wait_for(2 * NUM_CLIENTS)
            killed = time.time()
            self.servers[0].process.kill()
            load.wait_for(4 * NUM_CLIENTS)
        for start, end, code, _, error in load.failed():
            # At work, or sent before the proxy, which looks every half second, has seen it.
            self.assertLess(start, killed + 3, f"exit code {code} long after the kill: {error}")
        self.assertLessEqual(len([call for call in load.failed() if call[0] < killed]), NUM_CLIENTS)
        self.assertGreaterEqual(len([call for call in load.calls if call[0] > killed and call[2] == 0]), NUM_CLIENTS)


if __name__ == "__main__":
    unittest.main()
