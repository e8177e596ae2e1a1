"""The real server and client as subprocesses, from Bazel's runfiles."""
import json
import mmap
import os
import re
import subprocess
import tempfile
import time
import urllib.request

SERVER = "server/spotlight-server"
CLIENT = "client/spotlight"
MAKE_HASH = "engine/model/make_untrained_hash"
TRAIN = "training/spotlight-train"
TINY_LLAMA = "tests/testdata/tiny-llama"
TINY_QWEN2 = "tests/testdata/tiny-qwen2"


def _written(file):
    # Opened anew: the server writes at the offset that it shares with `file`.
    with open(f"/proc/self/fd/{file.fileno()}") as again:
        return again.read()


class Server:
    """A server on ports of its own, on the CPU: of a GPU each would take most of the memory, and tests run side by side.
    Use as a context manager: it is killed if it still runs."""

    def __init__(self, *flags, model=TINY_LLAMA, threads=1, environment=None):
        self._log = tempfile.TemporaryFile("w+")
        self._stdout = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [SERVER, "--model", model, "--device", "cpu", "--threads", str(threads), "--listen", "127.0.0.1:0", "--http",
             "127.0.0.1:0", *flags], stdout=self._stdout, stderr=self._log, env=environment)

    def log(self):
        return _written(self._log)

    def request_log(self):
        """The JSON lines that it has written, one per finished request."""
        return [json.loads(line) for line in (_written(self._stdout) + self.log()).splitlines() if line.startswith("{")]

    def wait_ready(self, seconds=120):
        deadline = time.time() + seconds
        while "ready" not in self.log():
            if self.process.poll() is not None or time.time() > deadline:
                raise AssertionError(f"the server is not ready:\n{self.log()}")
            time.sleep(0.02)
        self.grpc = re.search(r"gRPC on (\S+:\d+)", self.log()).group(1)
        self.http = re.search(r"HTTP on (http://[^/\s]+)", self.log()).group(1)
        return self

    def get(self, path):
        return urllib.request.urlopen(self.http + path, timeout=10).read().decode()

    def metric(self, series):
        """The value of one series; `series` is its name and any labels but model_name, as in the text format."""
        name, _, labels = series.partition("{")
        wanted = set(filter(None, labels.rstrip("}").split(",")))
        for line in self.get("/metrics").splitlines():
            found = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
            if found and found.group(1) == name and wanted <= set((found.group(2) or "").split(",")):
                return float(found.group(3))
        raise AssertionError(f"no series {series}")

    def metric_becomes(self, series, value, seconds=10):
        """Whether the series has that value soon: a call is counted when its client has its status already."""
        deadline = time.time() + seconds
        while self.metric(series) != value and time.time() < deadline:
            time.sleep(0.02)
        return self.metric(series) == value

    def client(self, command, *flags, **kwargs):
        return subprocess.run([CLIENT, command, "--server", self.grpc, *flags], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120, **kwargs)

    def generate(self, *flags, **kwargs):
        """All stream messages of a generation that must succeed."""
        done = self.client("generate", "--json", *flags, **kwargs)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def stop(self, seconds=60):
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()
        self._stdout.close()


def refused(*flags, model=TINY_LLAMA):
    """(exit code, stderr) of a server that must refuse to start."""
    done = subprocess.run([SERVER, "--model", model, "--threads", "1", "--listen", "127.0.0.1:0", "--http",
                           "127.0.0.1:0", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=120)
    return done.returncode, done.stderr


def untrained_hash(folder, model=TINY_LLAMA):
    path = os.path.join(folder, "hash.safetensors")
    subprocess.run([MAKE_HASH, "--model", model, "--out", path, "--seed", "1"], check=True, stdout=subprocess.DEVNULL)
    return path


def threads_that_take(pid, number):
    """How many threads of a process do not block a signal."""
    threads = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as file:
            blocked = int(re.search(r"^SigBlk:\s*(\w+)$", file.read(), re.M).group(1), 16)
        threads += not blocked >> (number - 1) & 1
    return threads


def links(program, *libraries):
    """Whether a program names one of these libraries as needed."""
    with open(program, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return any(text.find(library.encode()) >= 0 for library in libraries)


def thread_called(pid, name):
    """The id of a process's only thread of that name."""
    def name_of(thread):
        with open(f"/proc/{pid}/task/{thread}/comm") as file:
            return file.read().strip()

    thread, = (int(each) for each in os.listdir(f"/proc/{pid}/task") if name_of(each) == name)
    return thread


def write_text(path, lines=900):
    """Text for the tiny tokenizers: about two bytes a token, 20 tokens a line."""
    with open(path, "w") as file:
        for i in range(lines):
            file.write(f"Line {i * 7919 % 1000} of the story of the keeper and the lamp.\n")
    return path


def idle_share(seconds=1):
    """Of the machine's cores, while the caller does nothing."""
    def read():
        with open("/proc/stat") as file:
            times = [int(word) for word in file.readline().split()[1:9]]
        return times[3] + times[4], sum(times)

    idle, total = read()
    time.sleep(seconds)
    idle_then, total_then = read()
    return (idle_then - idle) / max(total_then - total, 1)
