#!/usr/bin/env python3
"""Stores a hash file's matrices in less. Needs numpy.

  training/round_hash.py IN OUT int8      8 bits and a scale per output of each KV head: half the size of bf16
  training/round_hash.py IN OUT bf16      back again, as the server reads it
  training/round_hash.py IN OUT rank=R    of rank R, by singular values, in IN's types: to see what that would keep

Biases and logit scales stay as they are. The header's held-out figures are IN's, and say so in "before_rounding_to".
"""

import json
import os
import struct
import sys

import numpy as np


def from_bf16(raw):
    return (raw.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values):
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read(path):
    """Tensors as {name: (dtype, array as stored)}, and the metadata."""
    types = {"F32": np.float32, "BF16": np.uint16, "I8": np.int8}
    with open(path, "rb") as file:
        data = file.read()
    header_bytes = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + header_bytes])
    metadata = header.pop("__metadata__", {})
    if not metadata.get("format", "").startswith("spotlight-hash-"):
        sys.exit(f"{path}: is no hash file")
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        tensors[name] = entry["dtype"], np.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def write(path, tensors, metadata):
    # The widest first: that keeps every tensor aligned to its elements.
    order = sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name))
    header, offset = {"__metadata__": metadata}, 0
    for name in order:
        dtype, array = tensors[name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".partial", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(tensors[name][1].tobytes())
    os.replace(path + ".partial", path)


def matrices(tensors):
    """Names and fp32 values of what is [Hkv, in, out], 8-bit ones dequantised."""
    for name, (dtype, array) in sorted(tensors.items()):
        if array.ndim != 3:
            continue
        if dtype == "I8":
            yield name, array.astype(np.float32) * tensors[name + ".scale"][1][:, None, :]
        else:
            yield name, from_bf16(array) if dtype == "BF16" else array


def to_int8(matrix):
    """[Hkv, in, out]: each output's column has a scale of its own."""
    scale = np.abs(matrix).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    return np.round(matrix / scale[:, None, :]).astype(np.int8), scale


def to_rank(matrix, rank):
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]


def main():
    if len(sys.argv) != 4 or not (sys.argv[3] in ("int8", "bf16") or sys.argv[3].startswith("rank=")):
        sys.exit(__doc__)
    source, target, how = sys.argv[1:]
    tensors, metadata = read(source)
    rounded = {name: tensor for name, tensor in tensors.items() if not name.endswith(".scale")}
    for name, matrix in matrices(tensors):
        if how == "int8":
            integers, scale = to_int8(matrix)
            rounded[name], rounded[name + ".scale"] = ("I8", integers), ("F32", scale)
            continue
        if how != "bf16":
            matrix = to_rank(matrix, int(how[5:]))
        wide = how != "bf16" and tensors[name][0] == "F32"
        rounded[name] = ("F32", matrix.astype(np.float32)) if wide else ("BF16", to_bf16(matrix))
    if how == "bf16":
        for name, (dtype, array) in tensors.items():
            if dtype == "F32" and array.ndim == 2 and not name.endswith(".scale"):
                rounded[name] = "BF16", to_bf16(array)
    if metadata.get("heldout"):
        figures = json.loads(metadata["heldout"])
        figures["before_rounding_to"] = how
        metadata["heldout"] = json.dumps(figures)
    write(target, rounded, metadata)


if __name__ == "__main__":
    main()
