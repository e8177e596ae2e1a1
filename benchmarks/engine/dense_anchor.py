#!/usr/bin/env python3
"""The anchor of decode_steps: a dense decode step of the same shape in PyTorch, as well as PyTorch does it: bf16, cuDNN's
attention over a contiguous cache that is already filled, the whole step one CUDA graph, greedy. Qwen2.5-7B's shape,
random weights. No paging, no scheduler, no sampling but argmax: what a tuned dense engine has to come near to.

  benchmarks/engine/dense_anchor.py [--shapes 1x8192,8x131072] [--json OUT]     README.md has the whole run
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

LAYERS, Q_HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INTERMEDIATE, VOCAB = 28, 28, 4, 128, 3584, 18944, 152064
Q_WIDTH, KV_WIDTH = Q_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM


def draw(*shape):
    return torch.empty(*shape, device="cuda", dtype=torch.bfloat16).normal_(0, 0.02)


class Layer:
    def __init__(self):
        self.qkv, self.bias, self.output = draw(Q_WIDTH + 2 * KV_WIDTH, HIDDEN), draw(Q_WIDTH + 2 * KV_WIDTH), draw(HIDDEN, Q_WIDTH)
        self.gate_up, self.down = draw(2 * INTERMEDIATE, HIDDEN), draw(HIDDEN, INTERMEDIATE)
        self.norm = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)


def rotate(x, cos, sin):
    half = HEAD_DIM // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def make_step(layers, embedding, head, batch, context):
    keys = [torch.empty(batch, KV_HEADS, context, HEAD_DIM, device="cuda", dtype=torch.bfloat16).normal_() for _ in layers]
    values = [torch.empty_like(key).normal_() for key in keys]
    ids = torch.zeros(batch, dtype=torch.long, device="cuda")
    cos, sin = draw(1, 1, 1, HEAD_DIM), draw(1, 1, 1, HEAD_DIM)

    def step():
        x = embedding[ids]
        for layer, key, value in zip(layers, keys, values):
            h = F.rms_norm(x, (HIDDEN,), layer.norm, 1e-6)
            qkv = F.linear(h, layer.qkv, layer.bias)
            q = rotate(qkv[:, :Q_WIDTH].view(batch, Q_HEADS, 1, HEAD_DIM), cos, sin)
            key[:, :, -1:] = rotate(qkv[:, Q_WIDTH:Q_WIDTH + KV_WIDTH].view(batch, KV_HEADS, 1, HEAD_DIM), cos, sin)
            value[:, :, -1:] = qkv[:, Q_WIDTH + KV_WIDTH:].view(batch, KV_HEADS, 1, HEAD_DIM)
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                attended = F.scaled_dot_product_attention(q, key, value, enable_gqa=True)
            x = x + F.linear(attended.reshape(batch, Q_WIDTH), layer.output)
            gate, up = F.linear(F.rms_norm(x, (HIDDEN,), layer.norm, 1e-6), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return F.linear(F.rms_norm(x, (HIDDEN,), layers[0].norm, 1e-6), head).argmax(-1)

    return step


def median_ms(graph, steps=20):
    times = []
    for index in range(-5, steps):
        start = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        if index >= 0:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1x8192,1x32768,1x131072,1x524288,1x1048448,8x8192,8x32768,8x131072,32x8192",
                        help="BATCHxCONTEXT, by commas; by default those of decode_steps")
    parser.add_argument("--json", default="", help="write the figures there")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    layers, embedding, head = [Layer() for _ in range(LAYERS)], draw(VOCAB, HIDDEN), draw(VOCAB, HIDDEN)
    rows = []
    for shape in arguments.shapes.split(","):
        batch, context = map(int, shape.split("x"))
        step = make_step(layers, embedding, head, batch, context)
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        rows.append({"batch": batch, "context": context, "ms": round(median_ms(graph), 4)})
        print(rows[-1], flush=True)
        del graph, step
        torch.cuda.empty_cache()
    if arguments.json:
        report = {"device": torch.cuda.get_device_name(), "versions": {"torch": torch.__version__}, "rows": rows}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
