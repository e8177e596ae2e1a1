#!/usr/bin/env python3
"""Greedy tokens and logits of transformers, the independent reference: fp32, sdpa, CPU.

usage: make_greedy.py MODEL_FOLDER OUT.json [--logits N] [--config '{"rope_scaling": ...}']

Each prompt goes on for 64 tokens; end-of-sequence tokens do not stop it. `logits` are those of the prompt's last
position: all of them, or the N best with the norm of all. `min_margin` is the smallest gap between the best and the
second logit over the 64 steps: how far a correct implementation is from another choice.
"""
import argparse
import json
import pathlib

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

NUM_TOKENS = 64
TEXTS = {
    "english": "The lighthouse keeper climbed the stairs every evening, and one night he found",
    "code": "def quicksort(items):\n    if len(items) <= 1:\n        return items\n    pivot = items[0]\n",
}
MESSAGES = [{"role": "user", "content": "Explain in two sentences why the sky is blue."}]


def prompts(tokenizer, tiny):
    for name, text in TEXTS.items():
        yield name, {"text": text}, tokenizer(text).input_ids
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=False)
    yield "chat", {"messages": MESSAGES}, ids
    if tiny:  # many pages, no text: any ids do
        yield "long", {}, [(i * i * 7 + i * 13 + 5) % 500 for i in range(1000)]


@torch.inference_mode()
def greedy(model, ids):
    logits, cache, fed, out, margins = None, None, ids, [], []
    for _ in range(NUM_TOKENS):
        step = model(input_ids=torch.tensor([fed]), past_key_values=cache, use_cache=True)
        cache, row = step.past_key_values, step.logits[0, -1]
        logits = row if logits is None else logits
        best = torch.topk(row, 2)
        margins.append(float(best.values[0] - best.values[1]))
        fed = [int(best.indices[0])]
        out += fed
    return logits, out, min(margins)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--logits", type=int, default=0, help="how many of the best to keep (default: all)")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON of config.json fields to change")
    args = parser.parse_args()

    fields = {**json.loads((pathlib.Path(args.model) / "config.json").read_text()), **args.config}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = AutoModelForCausalLM.from_pretrained(args.model, config=config, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    cases = []
    for name, prompt, ids in prompts(tokenizer, config.vocab_size == 512):
        logits, out, margin = greedy(model.eval(), ids)
        best = torch.topk(logits, args.logits) if args.logits else None
        kept = best.indices.tolist() if best else range(config.vocab_size)
        cases.append({
            "name": name, **prompt, "prompt_token_ids": ids, "output_token_ids": out, "min_margin": round(margin, 6),
            "logits_norm": float(f"{logits.double().norm():.9g}"),
            "logits": {"token_ids": list(kept), "values": [float(f"{float(logits[i]):.9g}") for i in kept]},
            "output_text": tokenizer.decode(out)})
        print(f"{name}: {len(ids)} prompt tokens, {len(set(out))} distinct of {NUM_TOKENS}, margin {margin:.4f}: {cases[-1]['output_text'][:150]!r}")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    head = json.dumps({"made_with": "transformers 4.57.6, torch 2.11.0, fp32, sdpa, CPU", "config_changes": args.config})
    args.out.write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
