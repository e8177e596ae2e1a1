#!/usr/bin/env python3
"""Time to the first token of a prompt whose beginning is cached, against the same prompt uncached: one server, one run,
taking turns. Prints a line and writes JSON.

Build first: make build.
"""
import argparse
import json
import os
import statistics

import compare


def first_token_ms(address, ids, salt):
    last = compare.generate(address, ids, 1, "auto", "--cache-salt", salt)
    return last["timings"]["time_to_first_token_seconds"] * 1e3, last["usage"].get("cached_prompt_tokens", 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prefix-tokens", type=int, default=4096)
    parser.add_argument("--question-tokens", type=int, default=64, help="tokens after the prefix, each time others")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()

    prefix = [1000 + i * 7919 % 40000 for i in range(args.prefix_tokens)]
    cold, hit = [], []
    with compare.server(args.model, args.threads, "--prefix-cache") as address:
        first_token_ms(address, prefix[:128], "warm up")
        for turn in range(args.rounds):
            salt = f"round {turn}"
            for times, expected in ((cold, 0), (hit, args.prefix_tokens // 64 * 64)):
                question = [1000 + (i * 31 + 7 * turn + len(times) + expected) % 40000
                            for i in range(args.question_tokens)]
                ms, cached = first_token_ms(address, prefix + question, salt)
                if cached != expected:
                    raise SystemExit(f"{cached} prompt tokens were cached, not {expected}")
                times.append(ms)
    result = {"prefix_tokens": args.prefix_tokens, "question_tokens": args.question_tokens, "cold_ms": cold,
              "hit_ms": hit, "hit_share": statistics.median(hit) / statistics.median(cold)}
    print(f"first token of {args.prefix_tokens} + {args.question_tokens} tokens: {statistics.median(cold):.0f} ms cold, "
          f"{statistics.median(hit):.0f} ms with the prefix cached, {100 * result['hit_share']:.1f}% (medians of "
          f"{args.rounds})")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
