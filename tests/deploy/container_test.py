"""The container image without a container engine: a root of nothing but glibc, the compiler's runtime and what
assemble.sh lays out, mounted read-only, in which nobody serves a model with the Dockerfile's environment."""
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import unittest

sys.path[:0] = ["tests/deploy", "tests/integration"]
import programs
import tools

DOCKERFILE = pathlib.Path("deploy/container/Dockerfile").read_text()
README = pathlib.Path("deploy/README.md").read_text()
# A mount namespace of our own: /proc, a /tmp to write to, the model; all else read-only. Then nobody, with no rights.
ENTER = """
set -e
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs tmpfs "$ROOT/tmp"
chmod 1777 "$ROOT/tmp"
mount --bind "$MODEL" "$ROOT/models"
mount -o remount,bind,ro "$ROOT/models"
mount -o remount,bind,ro "$ROOT"
exec chroot --userspec=65532:65532 "$ROOT" "$@"
"""


def image_environment():
    text = re.search(r"^ENV (.*?)(?<!\\)\n", DOCKERFILE, re.S | re.M).group(1).replace("\\\n", " ")
    return dict(pair.split("=", 1) for pair in shlex.split(text))


class ContainerTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        tools.need("base")
        if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode:
            reason = "needs root, for chroot and a mount namespace"
            print(f"SKIPPED: {os.environ.get('TEST_TARGET', 'this test')}: {reason}", flush=True)
            raise unittest.SkipTest(reason)
        cache = tools.FOLDER.parent  # on the wheels' disk: their libraries are linked, not copied
        folder = tempfile.TemporaryDirectory(dir=cache, prefix="image-")
        cls.addClassCleanup(folder.cleanup)
        cls.root = pathlib.Path(folder.name)
        cls.root.chmod(0o755)
        subprocess.run(["cp", "-a", f"{tools.FOLDER}/base/.", cls.root], check=True)
        done = tools.run("deploy/container/assemble.sh", cls.root, programs.SERVER, programs.CLIENT)
        assert done.returncode == 0, done.stderr
        for name in ("proc", "tmp", "models"):
            (cls.root / name).mkdir(exist_ok=True)
        cls.model = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.model.cleanup)
        os.chmod(cls.model.name, 0o755)
        subprocess.run(["cp", "-rL", programs.TINY_LLAMA + "/.", cls.model.name], check=True)

    def enter(self, *command, **kwargs):
        environment = {**image_environment(), "ROOT": str(self.root), "MODEL": self.model.name, "HOME": "/tmp"}
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}  # of unshare, mount and chroot
        return subprocess.Popen(["unshare", "--mount", "sh", "-c", ENTER, "sh", *command],
                                env={**environment, **path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                **kwargs)

    def test_serves_a_model_as_nobody_from_a_read_only_root(self):
        entrypoint = json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M).group(1))
        server = self.enter(*entrypoint, "--model", "/models", "--threads", "1", "--listen", "127.0.0.1:0", "--http",
                            "127.0.0.1:0")
        try:
            log = ""
            while "ready after" not in log:
                line = server.stderr.readline()
                self.assertTrue(line, f"the server ended:\n{log}")
                log += line
            pid = subprocess.run(["pgrep", "--parent", str(os.getpid()), "--full", "spotlight-server"],
                                 stdout=subprocess.PIPE, text=True).stdout.split()[0]
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            self.assertIn("Uid:\t65532\t65532\t65532\t65532", status)
            self.assertRegex(status, r"CapEff:\s+0{16}")
            maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
            self.assertNotIn("/root/", maps.replace(str(self.root), ""), "a library from outside the image")
            grpc = re.search(r"gRPC on (\S+:\d+)", log).group(1)
            client = self.enter("/opt/spotlight/bin/spotlight", "generate", "--server", grpc, "--prompt",
                                "Once upon a time", "--max-tokens", "5", "--ignore-eos", "--json")
            out, err = client.communicate(timeout=60)
            self.assertEqual(client.returncode, 0, err)
            self.assertEqual(json.loads(out.splitlines()[-1])["usage"]["completion_tokens"], 5)
            health = self.enter("/opt/spotlight/bin/spotlight", "health", "--server", grpc, "--service", "readiness")
            health.communicate(timeout=60)
            self.assertEqual(health.returncode, 0)
            server.terminate()
            server.communicate(timeout=60)
            self.assertEqual(server.returncode, 0)
        finally:
            if server.poll() is None:
                server.kill()
                server.communicate()

    def test_nothing_in_the_image_can_be_run_but_the_programs(self):
        runnable = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()
                    and path.stat().st_mode & 0o111 and ".so" not in path.name]
        ours = {self.root / "opt/spotlight/bin" / name for name in ("spotlight-server", "spotlight")}
        base = {path for path in runnable if (tools.FOLDER / "base" / path.relative_to(self.root)).exists()}
        self.assertEqual(set(runnable) - base, ours)
        self.assertEqual([path for path in self.root.rglob("*") if path.is_file() and path.stat().st_mode & 0o6000], [])

    def test_its_size_is_what_the_readme_says(self):
        size = sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())
        own = sum(path.stat().st_size for name in ("bin", "lib", "hashes")
                  for path in (self.root / "opt/spotlight" / name).rglob("*") if path.is_file())
        stated = re.search(r"([\d.]+) GB, of which [\d.]+ are .*? CUDA,\s+([\d.]+) MB", README, re.S)
        self.assertAlmostEqual(size / 1e9, float(stated.group(1)), delta=0.05, msg="of the image without its base's rest")
        self.assertAlmostEqual(own / 1e6, float(stated.group(2)), delta=5)

    def test_the_library_path_names_folders_that_are_there(self):
        for folder in image_environment()["LD_LIBRARY_PATH"].split(":"):
            self.assertTrue((self.root / folder.lstrip("/")).is_dir(), folder)

    def test_the_chart_runs_what_the_image_holds(self):
        tools.need("bin/helm")
        pod = tools.with_values().one("Pod")["spec"]
        self.assertTrue((self.root / pod["containers"][0]["command"][0].lstrip("/")).exists())
        self.assertNotIn("command", tools.with_values().server)  # the entry point


if __name__ == "__main__":
    unittest.main()
