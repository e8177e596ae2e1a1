#!/usr/bin/env python3
"""Runs load profiles with ghz against a server that it starts (or --server), and prints a table; --json keeps the figures.
ghz times whole calls; for first tokens and the gaps between tokens use the project's own bench client.

  steady   calls at an even rate
  step     the rate doubles from step to step, to twice the even one
  spike    2 clients, then 64 at once, then 2 again, each by itself: what a crowd leaves behind
  cancel   every client gives up after 0.3 s of a stream of 3,000 tokens: pages must come free
  mixed    prompts of 16 to 2,000 tokens, answers of 8 to 128, sparse where the server would

usage: profiles.py [--profile NAME ...] [--seconds S] [--rate R] [--json FILE] [--server HOST:PORT --http URL]
                   [-- SERVER_FLAG ...]    (flags of the started server; default: the tiny test model)
Needs ghz: make deploy-tools
"""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).absolute().parent
CALL = "spotlight.v1.Generation/GenerateStream"
METRICS = ("spotlight_requests_running", "spotlight_requests_waiting", "spotlight_kv_cache_usage_ratio",
           "spotlight_generation_tokens_total", "spotlight_wasted_tokens_total", "spotlight_cancel_release_seconds_sum",
           "spotlight_cancel_release_seconds_count", "spotlight_preemptions_total")


def request(prompt_tokens, answer_tokens, seed=0):
    chance = random.Random(seed)
    return {"token_ids": {"ids": [chance.randrange(5, 400) for _ in range(prompt_tokens)]},
            "sampling": {"seed": seed}, "stopping": {"max_tokens": answer_tokens, "ignore_eos": True}}


def mixed():
    chance = random.Random(7)
    return [request(round(16 * 125 ** chance.random()), round(8 * 16 ** chance.random()), seed) for seed in range(40)]


def profiles(seconds, rate):
    """name -> (requests, ghz's arguments, statuses that the profile may end calls with)"""
    short = request(64, 32)
    refused = {"OK", "ResourceExhausted"}
    run = ["--duration", f"{seconds}s", "--duration-stop", "wait"]
    briefly = ["--duration", f"{max(1, seconds // 3)}s", "--duration-stop", "wait"]
    return {
        "steady": (short, ["--rps", rate, "--concurrency", 16, *run], {"OK"}),
        "step": (short, ["--load-schedule", "step", "--load-start", max(1, rate // 2), "--load-end", 2 * rate,
                         "--load-step", max(1, rate // 2), "--load-step-duration", f"{max(1, seconds // 4)}s",
                         "--concurrency", 32, *run], refused),
        "spike-before": (short, ["--concurrency", 2, *briefly], {"OK"}),
        "spike": (short, ["--concurrency", 64, "--connections", 8, *briefly], refused),
        "spike-after": (short, ["--concurrency", 2, *briefly], {"OK"}),
        "cancel": (request(200, 3000), ["--stream-call-duration", "300ms", "--concurrency", 16, *run],
                   refused | {"Canceled"}),
        "mixed": (mixed(), ["--rps", max(1, rate // 4), "--concurrency", 16, *run], refused),
    }


class Server:

    def __init__(self, args):
        self.process = None
        self.grpc, self.http = args.server, args.http
        if self.grpc:
            return
        flags = args.flags or ["--model", "tests/testdata/tiny-llama", "--threads", "1"]
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([args.program, *flags, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"],
                                        stdout=subprocess.DEVNULL, stderr=self._log)
        deadline = time.time() + 600
        while "ready after" not in self.log():
            if self.process.poll() is not None or time.time() > deadline:
                sys.exit(f"the server is not ready:\n{self.log()}")
            time.sleep(0.1)
        self.grpc = re.search(r"gRPC on (\S+:\d+)", self.log()).group(1)
        self.http = re.search(r"HTTP on (http://[^/\s]+)", self.log()).group(1)

    def log(self):
        self._log.seek(0)
        return self._log.read()

    def metrics(self):
        text = urllib.request.urlopen(self.http + "/metrics", timeout=10).read().decode()
        return {name: sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))) for name in METRICS}

    def idle(self):
        """Metrics once nothing runs or waits; an error after ten seconds."""
        deadline = time.time() + 10
        while time.time() < deadline:
            now = self.metrics()
            if now["spotlight_requests_running"] + now["spotlight_requests_waiting"] == 0:
                return now
            time.sleep(0.1)
        sys.exit(f"requests are left after their clients have gone: {now}")

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=60)


def run(ghz, server, data, arguments):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "data.json"
        path.write_text(json.dumps(data))
        before = server.idle()
        done = subprocess.run([ghz, "--insecure", "--call", CALL, "--data-file", path, "--disable-template-functions",
                               "--disable-template-data", "--count-errors", "--format", "json", "--output",
                               f"{folder}/out.json", *map(str, arguments), server.grpc], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(done.stdout)
        report = json.loads((pathlib.Path(folder) / "out.json").read_text())
    after = server.idle()
    gone = {name: after[name] - before[name] for name in METRICS}
    seconds = report["total"] / 1e9
    latency = {entry["percentage"]: entry["latency"] / 1e9 for entry in report.get("latencyDistribution") or []}
    released = gone["spotlight_cancel_release_seconds_count"]
    return {
        "calls": report["count"], "calls_per_second": report["rps"], "seconds": seconds,
        "statuses": report["statusCodeDistribution"], "p50_seconds": latency.get(50), "p95_seconds": latency.get(95),
        "p99_seconds": latency.get(99), "generated_tokens_per_second": gone["spotlight_generation_tokens_total"] / seconds,
        "wasted_tokens": gone["spotlight_wasted_tokens_total"], "preemptions": gone["spotlight_preemptions_total"],
        "cancel_release_mean_seconds": gone["spotlight_cancel_release_seconds_sum"] / released if released else None,
        "kv_cache_usage_after": after["spotlight_kv_cache_usage_ratio"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="append", choices=["steady", "step", "spike", "cancel", "mixed"])
    parser.add_argument("--seconds", type=int, default=20, help="of each profile (default 20)")
    parser.add_argument("--rate", type=int, default=20, help="calls a second of the steady profile (default 20)")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--server", help="a plaintext server that runs already")
    parser.add_argument("--http", help="its http://HOST:PORT with /metrics")
    parser.add_argument("--program", default="bin/spotlight-server")
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    if bool(args.server) != bool(args.http):
        parser.error("--server and --http go together")
    tools = subprocess.run([HERE.parent / "tools/install.sh", "--where"], stdout=subprocess.PIPE, check=True, text=True)
    ghz = shutil.which("ghz", path=os.pathsep.join([os.environ["PATH"], tools.stdout.strip() + "/bin"]))
    if not ghz:
        sys.exit("ghz is not installed: make deploy-tools")

    server = Server(args)
    results, unexpected = {}, []
    print(f"{'profile':12} {'calls/s':>8} {'p50 s':>7} {'p95 s':>7} {'p99 s':>7} {'tokens/s':>9} {'wasted':>7}  statuses")
    try:
        for name, (data, arguments, allowed) in profiles(args.seconds, args.rate).items():
            if args.profile and name.split("-")[0] not in args.profile:
                continue
            result = results[name] = run(ghz, server, data, arguments)
            times = [f"{result[p]:7.3f}" if result[p] is not None else f"{'-':>7}"
                     for p in ("p50_seconds", "p95_seconds", "p99_seconds")]
            print(f"{name:12} {result['calls_per_second']:8.1f} {' '.join(times)} "
                  f"{result['generated_tokens_per_second']:9.0f} {result['wasted_tokens']:7.0f}  "
                  + ", ".join(f"{code} {count}" for code, count in result["statuses"].items()), flush=True)
            unexpected += [f"{name}: {code}" for code in result["statuses"] if code not in allowed]
    finally:
        server.stop()
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    if unexpected:
        sys.exit("unexpected: " + ", ".join(unexpected))


if __name__ == "__main__":
    main()
