#!/usr/bin/env python3
"""Rounds a hash file's matrices, to see what a smaller file would keep of its quality. Needs numpy.

  training/round_hash.py IN OUT int8      to 8 bits, one scale per output of each KV head
  training/round_hash.py IN OUT rank=R    to rank R, by singular values

The result is a hash file of IN's own size and types: nothing but its values changes.
"""

import json
import struct
import sys

import numpy as np


def from_bf16(raw):
    return (raw.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values):
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_int8(matrix):
    """[Hkv, in, out]: each output's column has a scale of its own."""
    scale = np.abs(matrix).max(axis=1, keepdims=True) / 127
    scale[scale == 0] = 1
    return np.round(matrix / scale) * scale


def to_rank(matrix, rank):
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]


def main():
    if len(sys.argv) != 4 or not (sys.argv[3] == "int8" or sys.argv[3].startswith("rank=")):
        sys.exit(__doc__)
    source, target, how = sys.argv[1:]
    with open(source, "rb") as file:
        data = bytearray(file.read())
    header_bytes = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + header_bytes])
    for name, tensor in header.items():
        if name == "__metadata__" or len(tensor["shape"]) != 3:
            continue
        begin, end = (8 + header_bytes + offset for offset in tensor["data_offsets"])
        if tensor["dtype"] == "BF16":
            matrix = from_bf16(np.frombuffer(data[begin:end], np.uint16)).reshape(tensor["shape"])
        else:
            matrix = np.frombuffer(data[begin:end], np.float32).reshape(tensor["shape"])
        rounded = to_int8(matrix) if how == "int8" else to_rank(matrix, int(how[5:]))
        rounded = to_bf16(rounded) if tensor["dtype"] == "BF16" else rounded.astype(np.float32)
        data[begin:end] = rounded.tobytes()
    with open(target, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    main()
