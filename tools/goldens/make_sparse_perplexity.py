#!/usr/bin/env python3
"""Log-probabilities of a sequence whose second half attends to oracle B's selection: transformers with its attention
replaced by plain loops, one query at a time, all in float64.

usage: make_sparse_perplexity.py MODEL_FOLDER OUT.json

Queries before `dense_tokens`, and layers before `first_layer`, are dense. A later query at p attends to the sinks, to the
recent tokens and to the K candidates with the largest softmax mass summed over the group's query heads, where
K = min(C, max(ceil(ratio * (p + 1)), min_tokens)), C the number of candidates; to everything when C <= min_tokens.
`min_margin` is the smallest relative gap between the K-th and the next mass: how far the selection is from another one.
"""
import argparse
import json
import math
import pathlib

import torch
from transformers import AttentionInterface, AutoModelForCausalLM

TOKENS, DENSE_TOKENS, FIRST_LAYER = 320, 160, 1
BUDGETS = [
    {"ratio": 0.02, "min_tokens": 8, "sink_tokens": 4, "recent_tokens": 16},
    {"ratio": 0.10, "min_tokens": 16, "sink_tokens": 2, "recent_tokens": 32},
    {"ratio": 0.05, "min_tokens": 200, "sink_tokens": 4, "recent_tokens": 16},  # the first queries are dense
]
active = {"budget": None, "margin": math.inf}


def allowed(masses, p, budget):
    """The tokens that a query at p attends to; masses [p + 1], summed over the group."""
    sinks, recent = budget["sink_tokens"], budget["recent_tokens"]
    candidates = list(range(sinks, p + 1 - recent))
    if len(candidates) <= budget["min_tokens"]:
        return list(range(p + 1))
    count = min(len(candidates), max(math.ceil(budget["ratio"] * (p + 1)), budget["min_tokens"]))
    ranked = sorted(candidates, key=lambda j: (-masses[j], j))
    if count < len(ranked):
        kth, following = masses[ranked[count - 1]], masses[ranked[count]]
        active["margin"] = min(active["margin"], (kth - following) / kth)
    return sorted(set(range(sinks)) | set(ranked[:count]) | set(range(p + 1 - recent, p + 1)))


def attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    q, k, v = query[0], key[0], value[0]  # [Hq, T, D], [Hkv, T, D]
    group = q.shape[0] // k.shape[0]
    out = torch.empty_like(q)
    for p in range(q.shape[1]):
        for head in range(k.shape[0]):
            heads = range(head * group, (head + 1) * group)
            logits = [k[head, : p + 1] @ q[h, p] * scaling for h in heads]
            tokens = list(range(p + 1))
            if active["budget"] and p >= DENSE_TOKENS and module.layer_idx >= FIRST_LAYER:
                tokens = allowed(sum(torch.softmax(x, 0) for x in logits).tolist(), p, active["budget"])
            for h, x in zip(heads, logits):
                out[h, p] = torch.softmax(x[tokens], 0) @ v[head, tokens]
    return out.transpose(0, 1)[None], None


@torch.inference_mode()
def log_probs(model, ids):
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    picked = torch.log_softmax(logits[DENSE_TOKENS:-1], -1)
    return [round(x, 6) for x in picked[range(len(picked)), ids[DENSE_TOKENS + 1:]].tolist()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    AttentionInterface.register("oracle_b", attention)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float64, attn_implementation="oracle_b")
    ids = [(i * i * 7 + i * 13 + 5) % 500 for i in range(TOKENS)]
    golden = {
        "token_ids": ids, "dense_tokens": DENSE_TOKENS, "first_layer": FIRST_LAYER,
        "dense_log_probs": log_probs(model, ids), "cases": [],
    }
    for budget in BUDGETS:
        active.update(budget=budget, margin=math.inf)
        golden["cases"].append({"budget": budget, "log_probs": log_probs(model, ids), "min_margin": active["margin"]})
    args.out.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
