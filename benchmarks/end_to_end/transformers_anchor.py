"""transformers' side of the comparison: decode, batched decode and prefill on the CPU. Prints one JSON object."""
import argparse
import json
import statistics
import time

import torch
import transformers


def cache_of(model, ids):
    """The cache after `ids` [B, S], prefilled in chunks, and the next token of each row [B, 1]."""
    cache = transformers.DynamicCache()
    for chunk in ids.split(1024, dim=1):
        logits = model(input_ids=chunk, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return cache, logits[:, -1:].argmax(-1)


def decode_ms(model, ids, steps):
    """Milliseconds per step of greedy decoding after `ids`: the median."""
    cache, token = cache_of(model, ids)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        token = model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[2:])


def prefill_ms(model, ids, runs):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        model(input_ids=ids, use_cache=True, logits_to_keep=1)
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--token-ids", required=True, help="file of token ids, comma separated")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--contexts", type=int, nargs="+", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--stream-context", type=int, required=True)
    parser.add_argument("--prefill-tokens", type=int, required=True)
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ids = torch.tensor([[int(i) for i in open(args.token_ids).read().split(",")]])
    result = {"transformers": transformers.__version__, "torch": torch.__version__, "dtypes": {}}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa")
        model.eval()
        with torch.inference_mode():
            batch = ids[:, : args.stream_context].repeat(args.streams, 1)
            result["dtypes"][name] = {
                "decode_ms": {str(c): decode_ms(model, ids[:, :c], args.steps) for c in args.contexts},
                "streams_ms": decode_ms(model, batch, args.steps),
                "prefill_ms": prefill_ms(model, ids[:, : args.prefill_tokens], 2),
            }
        del model
    print(json.dumps(result))


if __name__ == "__main__":
    main()
