"""spotlight-train as a user runs it, and what the server does with its files."""
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, "tests/integration")
import programs

QUICK = ("--tokens-per-sequence", "256", "--queries-per-step", "16", "--device", "cpu", "--dtype", "fp32", "--threads",
         "1")
LONG_PROMPT = ("--token-ids", ",".join(str(5 + i % 400) for i in range(1500)))


class TrainTest(unittest.TestCase):

    def setUp(self):
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = self._temporary.name
        self.text = programs.write_text(self.folder + "/text.txt", lines=300)
        self.out = self.folder + "/hash.safetensors"

    def tearDown(self):
        self._temporary.cleanup()

    def command(self, *flags, out=None):
        return [programs.TRAIN, "--model", programs.TINY_LLAMA, "--text", self.text, "--out", out or self.out, *QUICK,
                *flags]

    def train(self, *flags, **kwargs):
        return subprocess.run(self.command(*flags, **kwargs), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=120)

    def read(self, path):
        with open(path, "rb") as file:
            return file.read()

    def run_until_kept(self, *flags):
        """A run whose progress was kept at least once, still running."""
        process = subprocess.Popen(self.command(*flags), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.time() + 60
        while not os.path.exists(self.out + ".training"):
            self.assertIsNone(process.poll(), "it ended before its progress was kept")
            self.assertLess(time.time(), deadline)
            time.sleep(0.01)
        return process

    def test_trains_a_file_that_is_served_sparse(self):
        done = self.train("--steps", "10")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"held out \(\d sequences, .*\): recall 0\.\d+, attention mass 0\.\d+, IoU 0\.\d+")
        self.assertIn(f"spotlight-server --model {programs.TINY_LLAMA} --hash {self.out}", done.stdout)
        self.assertIn("step 10/10", done.stderr)
        self.assertEqual(sorted(os.listdir(self.folder)), ["hash.safetensors", "text.txt"])
        with programs.Server("--hash", self.out) as server:
            server.wait_ready()
            last = server.generate(*LONG_PROMPT, "--max-tokens", "8", "--ignore-eos", "--retrieval",
                                   "sparse")[-1]["retrieval"]
            self.assertEqual(last["sparse_steps"], 7)
            self.assertFalse(last.get("untrained_hash", False))

    def test_killed_run_goes_on_to_the_same_file(self):
        flags = ("--steps", "60", "--checkpoint-seconds", "0.05")
        undisturbed = self.folder + "/undisturbed.safetensors"
        self.assertEqual(self.train(*flags, out=undisturbed).returncode, 0)
        process = self.run_until_kept(*flags)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        self.assertFalse(os.path.exists(self.out))
        done = self.train(*flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"resumed after step [1-9]")
        self.assertEqual(self.read(self.out), self.read(undisturbed))

    def test_interrupted_run_keeps_its_progress_and_says_how_to_go_on(self):
        process = self.run_until_kept("--steps", "100000", "--checkpoint-seconds", "0.05")
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 4, error)
        self.assertRegex(error, r"stopped after step \d+ of 100000; the same command goes on from there")
        self.assertEqual(sorted(os.listdir(self.folder)), ["hash.safetensors.training", "text.txt"])

    def test_a_signal_interrupts_no_thread_but_the_one_that_waits_for_it(self):
        process = self.run_until_kept("--steps", "100000", "--checkpoint-seconds", "0.05", "--threads", "2")
        self.assertGreater(len(os.listdir(f"/proc/{process.pid}/task")), 2)
        for number in (signal.SIGINT, signal.SIGTERM):
            self.assertEqual(programs.threads_that_take(process.pid, number), 1)
        process.kill()
        process.wait()
        process.stderr.close()

    def test_two_runs_do_not_write_one_file(self):
        process = self.run_until_kept("--steps", "100000", "--checkpoint-seconds", "0.05")
        second = self.train("--steps", "100000")
        self.assertEqual(second.returncode, 1)
        self.assertIn("another process is making it", second.stderr)
        process.kill()
        process.wait()
        process.stderr.close()

    def test_full_disk_is_one_clear_error(self):
        done = subprocess.run(self.command("--steps", "3", "--checkpoint-seconds", "0"), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120, restore_signals=False,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("hash.safetensors.partial: cannot be written: File too large", done.stderr.splitlines()[-1])
        self.assertEqual(os.listdir(self.folder), ["text.txt"])

    def test_bad_commands_exit_with_2_and_bad_input_with_1(self):
        for flags, code, words in ((("--loss", "mse"), 2, "--loss: must be one of ce, bt, soft-topk"),
                                   (("--text", "/nowhere"), 1, "/nowhere: no such file"),
                                   (("--out", "/nowhere/x"), 1, "there is no folder /nowhere"),
                                   (("--tokens-per-sequence", "8192"), 1, "and training needs at least 16382")):
            with self.subTest(words):
                done = self.train(*flags)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(words, done.stderr.splitlines()[-1])


class TrainOnLoadTest(unittest.TestCase):
    """--hash train:TEXT."""

    def setUp(self):
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = self._temporary.name
        self.text = programs.write_text(self.folder + "/text.txt", lines=120)
        self.model = self.folder + "/model"
        shutil.copytree(programs.TINY_LLAMA, self.model)
        for name in ("", "config.json"):
            os.chmod(os.path.join(self.model, name), 0o755)
        # Short sequences: the default recipe has many steps.
        with open(self.model + "/config.json") as file:
            config = json.load(file)
        config["max_position_embeddings"] = 256
        with open(self.model + "/config.json", "w") as file:
            json.dump(config, file)
        self._cache = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = self.folder + "/cache"

    def tearDown(self):
        if self._cache is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = self._cache
        self._temporary.cleanup()

    def test_a_model_without_a_hash_gets_one_and_keeps_it(self):
        with programs.Server("--hash", "train:" + self.text, "--dtype", "fp32", model=self.model) as server:
            server.wait_ready(300)
            self.assertIn("this model has no hash yet", server.log())
            self.assertRegex(server.log(), r"training the hash: step \d+ of 2400")
            own = self.model + "/spotlight_hash.safetensors"
            self.assertIn(f"128-bit hash in 2 of 4 layers, from {own}", server.log())
            last = server.generate("--token-ids", ",".join(str(5 + i) for i in range(200)), "--max-tokens", "8",
                                   "--ignore-eos", "--retrieval", "sparse")[-1]
            self.assertEqual(last["retrieval"]["sparse_steps"], 7)
        with programs.Server("--hash", "train:" + self.text, model=self.model) as server:
            server.wait_ready()
            self.assertIn("nothing to train", server.log())
        cached = self.folder + "/cache/spotlight/hashes"
        os.makedirs(cached)
        shutil.move(own, cached + "/kept.safetensors")
        with programs.Server(model=self.model) as server:
            server.wait_ready()
            self.assertIn("layers, from " + cached + "/kept.safetensors", server.log())

    def wait_for(self, server, words):
        deadline = time.time() + 60
        while words not in server.log():
            self.assertLess(time.time(), deadline, server.log())
            time.sleep(0.02)

    def test_a_stopped_server_keeps_its_progress_and_other_texts_begin_anew(self):
        flags = ("--dtype", "fp32", "--hash")
        with programs.Server(*flags, "train:" + self.text, model=self.model) as server:
            self.wait_for(server, "training the hash: step")
            self.assertEqual(server.stop(), 0)
            self.assertRegex(server.log(), r"stopped after step \d+ of 2400; the same command goes on from there")
        with programs.Server(*flags, "train:" + self.text, model=self.model) as server:
            self.wait_for(server, "training the hash: step")
            self.assertRegex(server.log(), r"resumed after step [1-9]")
            self.assertEqual(server.stop(), 0)
        other = programs.write_text(self.folder + "/other.txt", lines=130)
        with programs.Server(*flags, "train:" + other, model=self.model) as server:
            self.wait_for(server, "training the hash: step")
            self.assertRegex(server.log(), r"its corpus sha256 is .*; begun anew")

    def test_a_server_waits_for_a_hash_that_another_process_makes(self):
        made = self.folder + "/made.safetensors"
        subprocess.run([programs.TRAIN, "--model", self.model, "--text", self.text, "--out", made, "--steps", "2", *QUICK],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        own = self.model + "/spotlight_hash.safetensors"
        with open(own + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with programs.Server("--dtype", "fp32", "--hash", "train:" + self.text, model=self.model) as server:
                self.wait_for(server, "another process is making it")
                shutil.move(made, own)
                server.wait_ready()
                self.assertIn("the other process has made this model's hash: " + own, server.log())
                self.assertNotIn("training the hash: step", server.log())

    def test_a_text_that_is_missing_is_one_clear_error(self):
        code, error = programs.refused("--hash", "train:/nowhere", model=self.model)
        self.assertEqual(code, 1)
        self.assertIn("/nowhere: no such file", error)
        self.assertEqual([name for name in os.listdir(self.model) if "hash" in name], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
