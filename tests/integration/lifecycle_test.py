"""Draining, signals and full disks: the real server as a process."""
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, "tests/integration")
import programs

LONG = ("--prompt", "The lighthouse keeper", "--max-tokens", "8000", "--ignore-eos", "--json")
CALLS = 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_stream(server, *flags):
    """A client whose stream has begun."""
    process = subprocess.Popen([programs.CLIENT, "generate", "--server", server.grpc, *LONG, *flags],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process.stdout.readline()
    process.stdout.readline()
    return process


def status_of(url):
    try:
        return urllib.request.urlopen(url, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def lines_lost(url):
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    counts = dict(re.findall(r'^spotlight_log_lines_dropped_total\{.*log="(\w+)"\} (\d+)$', text, re.M))
    return int(counts["requests"]), int(counts["program"])


class DrainTest(unittest.TestCase):

    def test_what_outlives_the_grace_is_cancelled_and_the_exit_is_clean(self):
        with programs.Server("--drain-seconds", "1.5") as server:
            server.wait_ready()
            process = start_stream(server)
            self.assertEqual(status_of(server.http + "/readyz"), 200)
            begin = time.time()
            server.process.send_signal(signal.SIGTERM)
            while status_of(server.http + "/readyz") == 200:
                self.assertLess(time.time() - begin, 10)
            self.assertEqual(status_of(server.http + "/healthz"), 200)  # alive, not ready
            refused = server.client("generate", "--prompt", "x", "--max-tokens", "1", "--connect-timeout", "1")
            self.assertEqual(refused.returncode, 5, refused.stderr)
            self.assertIn("draining", refused.stderr)
            self.assertEqual(server.metric('spotlight_requests_rejected_total{reason="draining"}'), 1)
            self.assertIsNone(process.poll())
            last = process.stdout.read().splitlines()[-1]
            self.assertEqual(json.loads(last)["finish_reason"], "aborted")
            self.assertEqual(process.wait(), 5)
            self.assertEqual(server.process.wait(timeout=60), 0)
            self.assertGreaterEqual(time.time() - begin, 1.5)
            ended = [line for line in server.request_log() if line.get("completion_tokens", 0) > 0]
            self.assertEqual([line["code"] for line in ended], ["UNAVAILABLE"])
            process.stdout.close()

    def test_an_idle_server_stops_at_once(self):
        with programs.Server("--drain-seconds", "600") as server:
            server.wait_ready()
            self.assertEqual(server.stop(seconds=30), 0)

    def test_a_second_signal_stops_at_once(self):
        with programs.Server("--drain-seconds", "600") as server:
            server.wait_ready()
            process = start_stream(server)
            server.process.send_signal(signal.SIGTERM)
            while "draining" not in server.log():
                time.sleep(0.01)
            self.assertIsNone(process.poll())
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(timeout=10), 128 + signal.SIGTERM)
            process.stdout.read()
            process.wait()
            process.stdout.close()

    def test_a_request_that_trickles_into_the_http_port_does_not_keep_the_server(self):
        with programs.Server("--drain-seconds", "1") as server:
            server.wait_ready()
            port = int(server.http.rsplit(":", 1)[1].split("/")[0])
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
                server.process.send_signal(signal.SIGTERM)
                begin = time.time()
                while server.process.poll() is None:
                    self.assertLess(time.time() - begin, 30)
                    try:
                        connection.sendall(b"x")
                    except OSError:  # closed as it ended
                        break
                    time.sleep(0.2)
            self.assertEqual(server.process.wait(timeout=10), 0)
            self.assertIn("still open", server.log())

    def test_a_signal_interrupts_no_thread_but_the_one_that_waits_for_it(self):
        with programs.Server(threads=2) as server:
            server.wait_ready()
            server.generate("--prompt", "The lighthouse keeper", "--max-tokens", "4")
            for number in (signal.SIGINT, signal.SIGTERM):
                self.assertEqual(programs.threads_that_take(server.process.pid, number), 1)

    def test_a_signal_that_a_preloaded_library_s_thread_gets_drains_the_server(self):
        if programs.links(programs.SERVER, "libasan.so", "libtsan.so"):
            self.skipTest("a sanitizer's runtime must be the first library")
        preload = {**os.environ, "LD_PRELOAD": os.path.abspath("tests/integration/libearly_thread.so")}
        with programs.Server(environment=preload) as server:
            server.wait_ready()
            early = programs.thread_called(server.process.pid, "early")
            # The kernel tries the thread that is named first.
            os.kill(early, signal.SIGTERM)
            self.assertEqual(server.process.wait(timeout=60), 0)
            self.assertIn("draining", server.log())

    def test_a_signal_while_loading_is_a_clean_exit(self):
        with programs.Server() as server:
            while "loading" not in server.log():
                time.sleep(0.001)
            server.process.send_signal(signal.SIGINT)
            self.assertEqual(server.process.wait(timeout=30), 0)


@contextlib.contextmanager
def pipe_that_nobody_reads():
    """Its writing end, full."""
    reader, writer = os.pipe()
    try:
        flags = fcntl.fcntl(writer, fcntl.F_GETFL)
        fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        try:
            while True:
                os.write(writer, b"x" * 4096)
        except BlockingIOError:
            pass
        fcntl.fcntl(writer, fcntl.F_SETFL, flags)
        yield writer
    finally:
        os.close(writer)
        os.close(reader)


class LogTest(unittest.TestCase):
    """A log that cannot be written costs its lines and nothing else, and the lines are counted."""

    def serve_with(self, stdout, stderr, lost):
        """Makes calls to a server whose request log loses `lost` lines. How many its program's log has lost."""
        grpc, http = free_port(), free_port()
        process = subprocess.Popen(
            [programs.SERVER, "--model", programs.TINY_LLAMA, "--threads", "1", "--listen", f"127.0.0.1:{grpc}",
             "--http", f"127.0.0.1:{http}"], stdout=stdout, stderr=stderr)
        try:
            deadline = time.time() + 120
            while True:
                self.assertIsNone(process.poll())
                self.assertLess(time.time(), deadline)
                try:
                    if status_of(f"http://127.0.0.1:{http}/readyz") == 200:
                        break
                except OSError:
                    pass
                time.sleep(0.02)
            for _ in range(CALLS):
                done = subprocess.run([programs.CLIENT, "generate", "--server", f"127.0.0.1:{grpc}", "--prompt", "x",
                                       "--max-tokens", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                      timeout=60)
                self.assertEqual(done.returncode, 0, done.stderr)
            deadline = time.time() + 10
            while lines_lost(f"http://127.0.0.1:{http}/metrics")[0] < lost:  # a pipe has a second's patience
                self.assertLess(time.time(), deadline)
                time.sleep(0.02)
            requests, program = lines_lost(f"http://127.0.0.1:{http}/metrics")
            self.assertEqual(requests, lost)
            process.terminate()
            self.assertEqual(process.wait(timeout=60), 0)
            return program
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def test_a_full_disk(self):
        with open("/dev/full", "w") as full:
            self.assertGreater(self.serve_with(full, full, CALLS), 3)  # what it says at its start

    def test_a_reader_that_is_gone(self):
        reader, writer = os.pipe()
        os.close(reader)
        self.assertGreater(self.serve_with(writer, writer, CALLS), 3)
        os.close(writer)

    def test_a_reader_of_the_request_log_that_does_not_read(self):
        with pipe_that_nobody_reads() as writer, tempfile.TemporaryFile("w+") as log:
            self.assertEqual(self.serve_with(writer, log, CALLS), 0)
            log.seek(0)
            told = [line for line in log if "the request log loses lines: " in line]
        self.assertEqual(len(told), 1, told)

    def test_a_log_that_is_read_loses_nothing(self):
        with tempfile.TemporaryFile("w+") as requests, tempfile.TemporaryFile("w+") as log:
            self.assertEqual(self.serve_with(requests, log, 0), 0)
            requests.seek(0)
            self.assertEqual(len(requests.readlines()), CALLS)


if __name__ == "__main__":
    unittest.main(verbosity=2)
