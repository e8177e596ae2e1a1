#!/usr/bin/env python3
"""Writes tests/engine/model/testdata/rope_goldens.json: RoPE frequencies as transformers computes them in fp32.

Needs torch and transformers==4.57.6.
usage: make_rope.py > tests/engine/model/testdata/rope_goldens.json
"""
import json

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


def config(heads, head_dim, theta, positions, scaling=None):
    return {"hidden_size": heads * head_dim, "num_attention_heads": heads, "head_dim": head_dim,
            "rope_theta": theta, "max_position_embeddings": positions, "rope_scaling": scaling}


def llama3(factor):
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}


def yarn(**more):
    return {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, **more}


CASES = {
    "llama2": config(32, 128, 10000.0, 4096),
    "smollm2": config(9, 64, 100000, 8192),
    "qwen2.5": config(28, 128, 1000000.0, 32768),
    "default_by_name": config(8, 96, 500000.0, 8192, {"rope_type": "default"}),
    "linear": config(32, 128, 10000.0, 16384, {"type": "linear", "factor": 8.0}),
    "linear_by_three": config(8, 80, 10000.0, 16384, {"type": "linear", "factor": 3.0}),
    "llama3.1": config(32, 128, 500000.0, 131072, llama3(8.0)),
    "llama3.2": config(32, 64, 500000.0, 131072, llama3(32.0)),
    "qwen2.5_yarn": config(28, 128, 1000000.0, 32768, yarn()),
    "yarn_not_truncated": config(28, 128, 1000000.0, 32768, yarn(truncate=False)),
    "yarn_betas": config(28, 128, 1000000.0, 131072, yarn(beta_fast=16.0, beta_slow=2.0)),
    "yarn_mscale": config(16, 64, 10000.0, 131072, yarn(factor=40.0, mscale=0.707, mscale_all_dim=1.0)),
    "yarn_mscale_alone": config(16, 64, 10000.0, 131072, yarn(mscale=0.707)),
    "yarn_attention_factor": config(28, 128, 1000000.0, 131072, yarn(attention_factor=1.25)),
    "yarn_without_original": config(32, 128, 10000.0, 4096, {"type": "yarn", "factor": 16.0}),
    "yarn_narrow_ramp": config(4, 16, 10000.0, 64, {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1.0}),
    "yarn_factor_one": config(4, 64, 10000.0, 4096, {"rope_type": "yarn", "factor": 1.0}),
}


def main():
    lines = []
    for name, fields in CASES.items():
        rope = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(fields))))
        inv_freq = ", ".join(f"{f:.9g}" for f in rope.inv_freq.tolist())
        lines.append(f'  {{"name": "{name}",\n   "config": {json.dumps(fields)},\n'
                     f'   "attention_factor": {rope.attention_scaling!r},\n   "inv_freq": [{inv_freq}]}}')
    print("[\n" + ",\n".join(lines) + "\n]")


if __name__ == "__main__":
    main()
