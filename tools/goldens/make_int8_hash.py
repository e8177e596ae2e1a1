#!/usr/bin/env python3
"""Writes tests/testdata/goldens/int8_hash.safetensors, a hash file with matrices in 8 bits, and beside it
int8_hash_dequantised.safetensors, the same in bf16. Random numbers; every integer from -127 to 127 and scales from
1e-30 to 1e30 occur.

Needs numpy. usage: make_int8_hash.py OUT_FOLDER
"""
import json
import struct
import sys

import numpy as np

HEADS, GROUP, DIM, BITS, LAYER = 2, 3, 16, 64, 3
METADATA = {"format": "spotlight-hash-1", "encoder": "z", "scoring": "asymmetric", "planes": "4", "plane_step": "0.335",
            "hash_bits": str(BITS), "prefix_bits": "32", "num_layers": "4", "num_kv_heads": str(HEADS),
            "group": str(GROUP), "head_dim": str(DIM), "layers": str(LAYER), "model_fingerprint": "a" * 64,
            "trained": "true"}


def bf16(values):
    """Nearest, ties to even, of what float64 can hold exactly: an integer times an fp32 scale, rounded to fp32 first."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    low = bits & 0xFFFF
    up = (low > 0x8000) | ((low == 0x8000) & (bits & 0x10000 != 0))
    return ((bits >> 16) + up).astype(np.uint16)


def write(path, tensors):
    data, header = b"", {"__metadata__": METADATA}
    for name, (dtype, array) in sorted(tensors.items(), key=lambda item: -item[1][1].itemsize):
        raw = array.tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def main():
    random = np.random.default_rng(7)
    scales = {f"layers.{LAYER}.logit_scale": ("F32", np.full(HEADS, 0.5, np.float32))}
    stored, plain = dict(scales), dict(scales)
    for side, inputs, hidden in (("key", DIM, 16), ("query", GROUP * DIM, 32)):
        prefix = f"layers.{LAYER}.{side}."
        for name, shape in (("w1", (inputs, hidden)), ("w2", (hidden, BITS)), ("skip", (inputs, BITS))):
            integers = random.integers(-127, 128, (HEADS, *shape)).astype(np.int8)
            scale = (10.0 ** random.uniform(-3, 1, (HEADS, shape[1]))).astype(np.float32)
            scale[0, 0], scale[1, 1] = 1e-30, 1e30
            stored[prefix + name], stored[prefix + name + ".scale"] = ("I8", integers), ("F32", scale)
            exact = integers.astype(np.float64) * scale.astype(np.float64)[:, None, :]
            plain[prefix + name] = "BF16", bf16(exact)
        for name, size in (("b1", hidden), ("b2", BITS)):
            stored[prefix + name] = plain[prefix + name] = "BF16", bf16(random.standard_normal((HEADS, size)))
    write(sys.argv[1] + "/int8_hash.safetensors", stored)
    write(sys.argv[1] + "/int8_hash_dequantised.safetensors", plain)


if __name__ == "__main__":
    main()
