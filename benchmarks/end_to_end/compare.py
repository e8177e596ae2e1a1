#!/usr/bin/env python3
"""Spotlight against transformers on the CPU: same model, same threads, one run. Prints a table and writes JSON.

Build first: make build && bazel build //benchmarks/end_to_end:empty_program.

Absolute times depend on the machine and on who else is using it; the ratios are what counts.
"""
import argparse
import concurrent.futures
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLIENT = os.path.join(ROOT, "bin", "spotlight")
SERVER = os.path.join(ROOT, "bin", "spotlight-server")
EMPTY_PROGRAM = os.path.join(ROOT, "bazel-bin", "benchmarks", "end_to_end", "empty_program")


@contextlib.contextmanager
def server(model, threads, *flags):
    """A running server's gRPC address."""
    with tempfile.TemporaryFile("w+") as log:
        # Prompts repeat, and prefill is timed: none may find another's pages.
        process = subprocess.Popen([SERVER, "--model", model, "--threads", str(threads), "--listen", "127.0.0.1:0",
                                    "--http", "127.0.0.1:0", "--no-prefix-cache", *flags], stdout=subprocess.DEVNULL, stderr=log)
        try:
            deadline = time.time() + 120
            while True:
                log.seek(0)
                text = log.read()
                found = re.search(r"gRPC on (127\.0\.0\.1:\d+)", text)
                if found and "ready" in text:
                    break
                if process.poll() is not None or time.time() > deadline:
                    sys.exit(text)
                time.sleep(0.05)
            yield found.group(1)
        finally:
            process.terminate()
            process.wait()


def resident_mib(text):
    """VmRSS of a /proc/PID/status."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", text).group(1)) / 1024


def startup(model, threads):
    """Seconds to ready and resident memory after it, beside what it may be: an empty program's, and the weights once."""
    with tempfile.TemporaryFile("w+") as log:
        start = time.time()
        process = subprocess.Popen([SERVER, "--model", model, "--threads", str(threads), "--listen", "127.0.0.1:0",
                                    "--http", "127.0.0.1:0"], stdout=subprocess.DEVNULL, stderr=log)
        text = ""
        while "ready" not in text:
            if process.poll() is not None:
                sys.exit(text)
            time.sleep(0.005)
            log.seek(0)
            text = log.read()
        seconds = time.time() - start
        with open(f"/proc/{process.pid}/status") as status:
            resident = resident_mib(status.read())
        process.terminate()
        process.wait()
    empty = resident_mib(subprocess.run([EMPTY_PROGRAM], check=True, stdout=subprocess.PIPE, text=True).stdout)
    weights = sum(os.path.getsize(os.path.join(model, name)) for name in os.listdir(model)
                  if name.endswith(".safetensors")) / 2**20
    return {"ready_seconds": seconds, "resident_mib": resident, "empty_program_mib": empty, "weights_mib": weights}


def generate(address, ids, max_tokens, mode="auto", *flags):
    """The last stream message of one greedy generation."""
    with tempfile.NamedTemporaryFile("w", suffix=".ids") as file:
        file.write(",".join(map(str, ids)))
        file.flush()
        command = [CLIENT, "generate", "--server", address, "--token-ids", ",".join(map(str, ids)), "--max-tokens",
                   str(max_tokens), "--temperature", "0", "--ignore-eos", "--retrieval", mode, "--json", *flags]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def inter_token_ms(last):
    return last["timings"]["mean_inter_token_seconds"] * 1e3


def measure(address, ids, args, mode):
    """Decode per context, batched decode, prefill; milliseconds."""
    generate(address, ids[:64], 4, mode)
    decode = {str(c): min(inter_token_ms(generate(address, ids[:c], args.steps, mode)) for _ in range(2))
              for c in args.contexts}
    with concurrent.futures.ThreadPoolExecutor(args.streams) as pool:
        # Slightly different prompts, so that none is another's.
        prompts = [ids[i:args.stream_context + i] for i in range(args.streams)]
        lasts = list(pool.map(lambda p: generate(address, p, 2 * args.steps, mode), prompts))
    # Prefills overlap the first decodes; the stream that began last saw the full batch most of the time.
    streams = min(inter_token_ms(last) for last in lasts)
    prefill = min(generate(address, ids[:args.prefill_tokens], 1, mode)["timings"]["prefill_seconds"] for _ in range(2))
    return {"decode_ms": decode, "streams_ms": streams, "prefill_ms": prefill * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--python", required=True, help="a python with requirements.txt and LibTorch's wheels")
    parser.add_argument("--hash", help="hash file: adds the sparse column (an untrained one costs the same)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 8000])
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--stream-context", type=int, default=512)
    parser.add_argument("--prefill-tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()

    text = " ".join(f"Item {i} of the list weighs {i * 37 % 101} grams and costs {i * 53 % 97} cents."
                    for i in range(1200))
    with server(args.model, args.threads) as address, tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        out = subprocess.run([CLIENT, "tokenize", "--server", address, "--prompt-file", file.name, "--json"],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
        ids = json.loads(out)["token_ids"][:max(args.contexts) + args.streams]
        ours = {"dense": measure(address, ids, args, "dense")}
    if args.hash:
        with server(args.model, args.threads, "--hash", args.hash, "--allow-untrained-hash") as address:
            ours["sparse"] = measure(address, ids, args, "sparse")
    with tempfile.NamedTemporaryFile("w", suffix=".ids") as file:
        file.write(",".join(map(str, ids)))
        file.flush()
        anchor = json.loads(subprocess.run(
            [args.python, os.path.join(ROOT, "benchmarks/end_to_end/transformers_anchor.py"), "--model", args.model,
             "--token-ids", file.name, "--threads", str(args.threads), "--contexts", *map(str, args.contexts),
             "--streams", str(args.streams), "--stream-context", str(args.stream_context), "--prefill-tokens",
             str(args.prefill_tokens), "--steps", str(args.steps)], check=True, stdout=subprocess.PIPE, text=True).stdout)

    def best(pick):
        return min((pick(figures), name) for name, figures in anchor["dtypes"].items())

    rows = [(f"decode, {c} tokens of context, ms/token", lambda f, c=c: f["decode_ms"][str(c)]) for c in args.contexts]
    rows.append((f"decode, {args.streams} streams at {args.stream_context}, ms/step", lambda f: f["streams_ms"]))
    rows.append((f"prefill, {args.prefill_tokens} tokens, ms", lambda f: f["prefill_ms"]))
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True).stdout.strip()
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    print(f"{cpu}, {args.threads} threads, commit {commit}, transformers {anchor['transformers']}, torch {anchor['torch']}")
    columns = list(ours)
    print(f"{'':44}{'transformers':>18}" + "".join(f"{name:>12}{'ratio':>8}" for name in columns))
    started = startup(args.model, args.threads)
    report = {"startup": started, "cpu": cpu, "threads": args.threads, "commit": commit, "anchor": anchor, "rows": []}
    for title, pick in rows:
        reference, dtype = best(pick)
        line = f"{title:44}{reference:12.1f} {dtype:>5}"
        row = {"title": title, "anchor_ms": reference, "anchor_dtype": dtype}
        for name in columns:
            value = pick(ours[name])
            line += f"{value:12.1f}{reference / value:7.2f}x"
            row[f"{name}_ms"] = value
        report["rows"].append(row)
        print(line)
    print(f"start to ready: {started['ready_seconds']:.2f} s; resident {started['resident_mib']:.0f} MiB = empty program "
          f"{started['empty_program_mib']:.0f} + weights {started['weights_mib']:.0f} + "
          f"{started['resident_mib'] - started['empty_program_mib'] - started['weights_mib']:.0f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
