#!/usr/bin/env python3
"""What a user of the ordinary tools gets per decoded token, beside decode_steps: Hugging Face transformers with a static
cache, scaled-dot-product attention and torch.compile(mode="reduce-overhead"), bf16, batch 1. Qwen2.5-7B's shape, random
weights. A static cache is attended to at its full length under a mask, whatever it holds, so it is not filled first.

  benchmarks/engine/transformers_anchor.py [--contexts 131072] [--json OUT] [--commit COMMIT]
"""
import argparse
import json
import statistics
import time

import torch
import transformers

STEPS, WARM_UPS = 10, 4


def make_model():
    config = transformers.Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=1 << 20, rope_theta=1e6, tie_word_embeddings=False)
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.Qwen2ForCausalLM(config)
    return model.eval()


def step_ms(model, context, compiled):
    cache = transformers.StaticCache(config=model.config, max_cache_len=context)
    with torch.no_grad():
        prompt = torch.arange(8, device="cuda")
        model(input_ids=prompt[None], past_key_values=cache, use_cache=True, cache_position=prompt)
        times = []
        for index in range(-WARM_UPS, STEPS):
            token = torch.zeros(1, 1, dtype=torch.long, device="cuda")
            position = torch.tensor([8 + WARM_UPS + index], device="cuda")
            torch.cuda.synchronize()
            start = time.perf_counter()
            logits = compiled(input_ids=token, past_key_values=cache, use_cache=True, cache_position=position).logits
            logits[0, -1].argmax().item()
            if index >= 0:
                times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", default="131072", help="tokens, by commas")
    parser.add_argument("--json", default="", help="write the figures there")
    parser.add_argument("--commit", default="unknown", help="goes into the JSON")
    arguments = parser.parse_args()
    model = make_model()
    compiled = torch.compile(model, mode="reduce-overhead")
    rows = []
    for context in map(int, arguments.contexts.split(",")):
        eager = step_ms(model, context, model)
        rows.append({"batch": 1, "context": context, "transformers_eager_ms": round(eager, 2),
                     "transformers_ms": round(step_ms(model, context, compiled), 2)})
        print(rows[-1], flush=True)
        torch.cuda.empty_cache()
    if arguments.json:
        report = {"device": torch.cuda.get_device_name(),
                  "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
                  "commit": arguments.commit, "rows": rows}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
