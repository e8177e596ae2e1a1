#!/usr/bin/env python3
"""Measures one server and derives the chart's autoscaling values from what it measured: from your model, device, prompts
and objectives. Starts a server with the flags given, or takes one that runs; nothing else should call it meanwhile.

  level     as many requests at once as the table's line says, each followed by the next (spotlight-bench)
  running   runningPerReplica: three quarters of the largest level that keeps the gap between tokens (p95). The last
            quarter is for what comes while a replica is added
  waiting   waitingPerReplica: what a server at that level starts within the first-token objective, less the time that a
            prompt takes there

usage: scaling.py [--input-len N] [--output-len N] [--first-token S] [--gap S] [--rounds N] [--json FILE]
                  [--server HOST:PORT | -- SERVER_FLAG ...]
"""
import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import time


class Server:
    """Started with the flags, on free ports."""

    def __init__(self, program, flags, seconds=900):
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen([program, *flags, "--listen=127.0.0.1:0", "--http=127.0.0.1:0"],
                                         stdout=subprocess.DEVNULL, stderr=self._log)
        deadline = time.time() + seconds
        while "ready after" not in self.log():
            if self._process.poll() is not None or time.time() > deadline:
                sys.exit(f"the server is not ready:\n{self.log()}")
            time.sleep(0.1)
        self.address = re.search(r"gRPC on (\S+:\d+)", self.log()).group(1)
        self.load_seconds = float(re.search(r"ready after ([\d.]+) s", self.log()).group(1))

    def log(self):
        with open(f"/proc/self/fd/{self._log.fileno()}") as again:
            return again.read()

    def stop(self):
        self._process.terminate()
        self._process.wait(timeout=120)


def max_running(client, address):
    done = subprocess.run([client, "models", "--server", address, "--json"], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)["server"]["max_running_requests"]


def measure(args, address, level):
    """What `level` requests at once get."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "result.json"
        done = subprocess.run(
            [args.bench, "--server", address, "--max-concurrency", str(level), "--num-prompts", str(args.rounds * level),
             "--num-warmups", "1", "--input-len", str(args.input_len), "--output-len", str(args.output_len),
             "--workload-seed", str(level), "--result-filename", path], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(done.stdout)
        result = json.loads(path.read_text())
    if result["failed"]:
        sys.exit(f"{result['failed']} of {level} at once failed: {result['errors_by_status']}")
    return {"level": level, "requests_per_second": result["request_throughput"],
            "tokens_per_second": result["output_throughput"], "median_first_token_seconds": result["median_ttft_ms"] / 1e3,
            "p95_gap_seconds": result["p95_itl_ms"] / 1e3}


def derive(rows, args):
    """The chart's values, from the rows of rising level; the first is one request at a time."""
    kept = [row for row in rows if row["p95_gap_seconds"] <= args.gap]
    if not kept:
        sys.exit(f"one request at a time has gaps of {rows[0]['p95_gap_seconds']:.3f} s already: --gap {args.gap} cannot be "
                 "kept on this device")
    best = kept[-1]
    spare = args.first_token - best["median_first_token_seconds"]
    if spare <= 0:
        sys.exit(f"at {best['level']} at once a prompt takes {best['median_first_token_seconds']:.2f} s: --first-token "
                 f"{args.first_token} cannot be kept there; a smaller --gap asks for a lower level")
    return {"runningPerReplica": max(1, math.floor(0.75 * best["level"])),
            "waitingPerReplica": max(1, math.floor(best["requests_per_second"] * spare))}, best["level"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input-len", type=int, default=512, help="tokens of a prompt (default 512)")
    parser.add_argument("--output-len", type=int, default=128, help="of an answer (default 128)")
    parser.add_argument("--first-token", type=float, default=2.5, help="objective, seconds (default 2.5)")
    parser.add_argument("--gap", type=float, default=0.2, help="objective between two tokens, seconds (default 0.2)")
    # The prompts of the first round come all together; in the others they come as places get free.
    parser.add_argument("--rounds", type=int, default=4, help="requests of a level, over the level (default 4)")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--server", help="one that runs already, in place of flags")
    parser.add_argument("--program", default="bin/spotlight-server")
    parser.add_argument("--bench", default="bin/spotlight-bench")
    parser.add_argument("--client", default="bin/spotlight")
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    if bool(args.server) == bool(args.flags):
        parser.error("give the server's flags behind --, or --server")

    server = None if args.server else Server(args.program, args.flags)
    try:
        address = args.server or server.address
        places = max_running(args.client, address)
        rows = []
        print(f"{'level':>6} {'requests/s':>11} {'tokens/s':>9} {'first token':>12} {'gap p95':>9}")
        for level in sorted({1, *(max(1, math.ceil(places * share)) for share in (0.25, 0.5, 0.75, 1))}):
            row = measure(args, address, level)
            rows.append(row)
            print(f"{level:6} {row['requests_per_second']:11.2f} {row['tokens_per_second']:9.1f} "
                  f"{row['median_first_token_seconds']:10.2f} s {1e3 * row['p95_gap_seconds']:6.0f} ms", flush=True)
    finally:
        if server:
            server.stop()
    values, best = derive(rows, args)
    print()
    if best < places:
        print(f"# {places} at once have longer gaps than {args.gap} s: server.maxRunning: {best} would keep them")
    if server:
        print(f"# ready after {server.load_seconds:.0f} s; model.loadSeconds: well above, for a cold disk")
    print("autoscaling:\n" + "".join(f"  {key}: {value}\n" for key, value in values.items()), end="")
    if args.json:
        args.json.write_text(json.dumps({"max_running": places, "levels": rows, "values": values}, indent=1) + "\n")


if __name__ == "__main__":
    main()
