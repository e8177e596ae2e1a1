"""TLS, client certificates and tokens with the real programs; what happens to the files while they run."""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, "tests/integration")
import programs

TOKEN = "team-0123456789abcdef"
GREEDY = ("--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "24", "--ignore-eos")


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class SecurityTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls._temporary = tempfile.TemporaryDirectory()
        cls.path = lambda _, name: os.path.join(cls._temporary.name, name)
        cls.make_credentials()
        path = lambda name: os.path.join(cls._temporary.name, name)
        cls.server = programs.Server("--tls-cert", path("server.crt"), "--tls-key", path("server.key"), "--tls-client-ca",
                                     path("ca.crt"), "--token-file", path("tokens.json"),
                                     "--credentials-reload-seconds", "0.2").wait_ready()
        cls.flags = ("--tls-ca", path("ca.crt"), "--tls-cert", path("client.crt"), "--tls-key", path("client.key"))
        cls.environment = dict(os.environ, SPOTLIGHT_TOKEN=TOKEN)

    @classmethod
    def make_credentials(cls):
        path = lambda name: os.path.join(cls._temporary.name, name)
        with open(path("names"), "w") as file:
            file.write("subjectAltName=IP:127.0.0.1")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *key, "-keyout", path("ca.key"), "-out", path("ca.crt"), "-days", "1", "-subj", "/CN=ca")
        for name in ("server", "client"):
            openssl("req", *key, "-keyout", path(name + ".key"), "-out", path(name + ".csr"), "-subj", "/CN=" + name)
            openssl("x509", "-req", "-in", path(name + ".csr"), "-CA", path("ca.crt"), "-CAkey", path("ca.key"),
                    "-CAcreateserial", "-out", path(name + ".crt"), "-days", "1", "-extfile", path("names"))
        with open(path("tokens.json"), "w") as file:
            json.dump({"tokens": [{"name": "team", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
                                   "scopes": ["generate"]}]}, file)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        cls._temporary.cleanup()

    def wait_for_log(self, words):
        for _ in range(500):
            if words in self.server.log():
                return
            time.sleep(0.02)
        self.fail(f"{words!r} is not in the log:\n{self.server.log()}")

    def text(self):
        messages = self.server.generate(*GREEDY, *self.flags, env=self.environment)
        return "".join(message.get("text", "") for message in messages)

    def test_the_answer_is_that_of_plaintext(self):
        with programs.Server() as plain:
            expected = "".join(message.get("text", "") for message in plain.wait_ready().generate(*GREEDY))
        self.assertEqual(self.text(), expected)

    def test_callers_without_credentials_are_refused(self):
        done = self.server.client("generate", *GREEDY, *self.flags)
        self.assertEqual((done.returncode, done.stdout), (3, ""), done.stderr)
        self.assertIn("UNAUTHENTICATED", done.stderr)
        done = self.server.client("generate", *GREEDY, "--connect-timeout", "1")
        self.assertEqual((done.returncode, done.stdout), (5, ""), done.stderr)
        refused = "spotlight_requests_rejected_total{reason=\"auth\"}"
        self.assertGreaterEqual(self.server.metric(refused), 1)

    def test_broken_files_are_told_and_the_old_ones_go_on(self):
        for name in ("server.crt", "tokens.json"):
            path = self.path(name)
            with open(path) as file:
                good = file.read()
            with open(path, "w") as file:
                file.write("garbage")
            self.wait_for_log(f"goes on: {path}: ")
            self.assertTrue(self.text())
            os.remove(path)
            self.wait_for_log(f"{path}: No such file or directory")
            self.assertTrue(self.text())
            with open(path, "w") as file:
                file.write(good)
        self.wait_for_log("tokens: reloaded")
        self.wait_for_log("certificate: reloaded")
        self.assertTrue(self.text())

    def test_no_secret_is_told(self):
        client = subprocess.Popen(
            [programs.CLIENT, "generate", "--server", self.server.grpc, *self.flags, "--prompt", "x", "--ignore-eos",
             "--max-tokens", "2000"], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        client.stdout.read(1)
        told = b""
        for pid in (client.pid, self.server.process.pid):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                told += file.read()
        client.kill()
        client.communicate()
        self.server.client("loads", *self.flags, env=dict(self.environment, SPOTLIGHT_TOKEN="wrong-0123456789abcdef"))
        lines = self.server.request_log()
        self.assertIn("team", [line["caller"] for line in lines])
        told += (self.server.log() + json.dumps(lines)).encode()
        self.assertNotIn(b"0123456789abcdef", told)
        self.assertNotIn(hashlib.sha256(TOKEN.encode()).hexdigest().encode(), told)
        self.assertNotIn(b"PRIVATE KEY", told)


class StartTest(unittest.TestCase):

    def test_the_network_needs_tls_or_a_word(self):
        code, error = programs.refused("--listen", "0.0.0.0:0")
        self.assertEqual(code, 2)
        self.assertIn("--allow-insecure", error)

    def test_missing_files_are_named(self):
        for flags in (("--token-file", "/nowhere"), ("--tls-cert", "/nowhere", "--tls-key", "/nowhere")):
            code, error = programs.refused(*flags)
            self.assertEqual(code, 1)
            self.assertIn("/nowhere: No such file or directory", error)


if __name__ == "__main__":
    unittest.main()
