#!/usr/bin/env python3
"""Perplexity of a Llama checkpoint with fp8 weights, with fp8 inputs too, and with fp8 keys and values, beside its own.

The rounding of spotlight-server --quantization=fp8, apart from it: e4m3, one scale for each output of a layer's
matrices (largest magnitude / 448), and for each token of their inputs where prompts are multiplied in fp8; embeddings,
output head and all else stay. And that of --kv-cache-dtype=fp8: keys, once rotated, and values, one scale for each token
and head. Everything is computed in fp32. The second half of the first CONTEXT tokens of each text is scored; agree: how
often the most likely token is the checkpoint's own.

usage: fp8_perplexity.py [--cache-only] MODEL_FOLDER CONTEXT TEXT ...
needs torch, safetensors, tokenizers; 8 min a text on 2 cores, 4 with --cache-only, which leaves weights as they are
"""
import json
import math
import sys

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn.functional import scaled_dot_product_attention, silu


def round_to_fp8(rows):
    scale = rows.abs().amax(-1, keepdim=True) / 448
    scale[scale == 0] = 1
    return (rows / scale).to(torch.float8_e4m3fn).float() * scale


class Model:
    def __init__(self, folder):
        self.config = json.load(open(f"{folder}/config.json"))
        assert not self.config.get("rope_scaling") and not self.config.get("attention_bias"), "plain Llama only"
        assert self.config["tie_word_embeddings"], "tied embeddings only"
        self.heads, self.kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.head_dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.weights = {name: tensor.float() for name, tensor in load_file(f"{folder}/model.safetensors").items()}
        self.rounded = {name: round_to_fp8(tensor) for name, tensor in self.weights.items() if "_proj" in name}

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]) * self.weights[name]

    def rotate(self, x):
        half = self.head_dim // 2
        inverse = self.config["rope_theta"] ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angle = torch.outer(torch.arange(x.shape[1]).float(), inverse)
        low, high = x[..., :half], x[..., half:]
        return torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], -1)

    def states(self, ids, fp8_weights=False, fp8_inputs=False, fp8_cache=False):
        """The final norm's output, a row for each token."""
        source = {**self.weights, **self.rounded} if fp8_weights else self.weights
        as_input = round_to_fp8 if fp8_inputs else lambda x: x
        as_cached = round_to_fp8 if fp8_cache else lambda x: x
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            project = lambda y, name: y @ source[f"{prefix}{name}_proj.weight"].T
            by_head = lambda y, name, n: project(y, f"self_attn.{name}").view(-1, n, self.head_dim).transpose(0, 1)
            y = as_input(self.norm(x, prefix + "input_layernorm.weight"))
            q, k = self.rotate(by_head(y, "q", self.heads)), self.rotate(by_head(y, "k", self.kv_heads))
            v = by_head(y, "v", self.kv_heads)
            k, v = as_cached(k), as_cached(v)
            out = scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]
            x = x + project(as_input(out.transpose(0, 1).reshape(len(ids), -1)), "self_attn.o")
            y = as_input(self.norm(x, prefix + "post_attention_layernorm.weight"))
            x = x + project(as_input(silu(project(y, "mlp.gate")) * project(y, "mlp.up")), "mlp.down")
        return self.norm(x, "model.norm.weight")

    def score(self, ids, **rounded):
        """(perplexity, the most likely tokens) of the second half."""
        first = len(ids) // 2
        states, targets = self.states(ids, **rounded)[first - 1 : -1], ids[first:]
        losses, best = [], []
        for rows, wanted in zip(states.split(512), targets.split(512)):
            logits = (rows @ self.weights["model.embed_tokens.weight"].T).log_softmax(-1)
            losses.append(-logits.gather(1, wanted[:, None])[:, 0])
            best.append(logits.argmax(-1))
        return math.exp(torch.cat(losses).mean()), torch.cat(best)


def main():
    cache_only = "--cache-only" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--cache-only"]
    if len(arguments) < 3:
        sys.exit(__doc__)
    torch.set_grad_enabled(False)
    folder, context, texts = arguments[0], int(arguments[1]), arguments[2:]
    variants = {"fp8 keys and values": {"fp8_cache": True}}
    if not cache_only:
        variants["fp8 weights"] = {"fp8_weights": True}
        variants["fp8 weights and inputs"] = {"fp8_weights": True, "fp8_inputs": True}
    model, tokenizer = Model(folder), Tokenizer.from_file(f"{folder}/tokenizer.json")
    for path in texts:
        with open(path) as file:
            ids = torch.tensor(tokenizer.encode(file.read(8 * context)).ids[:context])
        plain, best = model.score(ids)
        line = f"{path}: {len(ids)} tokens, {plain:.4f}"
        for name, rounded in variants.items():
            perplexity, other = model.score(ids, **rounded)
            line += f"; {name} {perplexity:.4f}, agree {(other == best).float().mean().item():.4f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
