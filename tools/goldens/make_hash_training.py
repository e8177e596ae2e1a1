#!/usr/bin/env python3
"""Writes tests/testdata/goldens/hash_training.safetensors: losses of tiny hashes and the gradients of all their
parameters, in float64 by PyTorch's autograd, one unit and one query at a time.

Needs torch (a CPU build will do).
usage: make_hash_training.py OUT
"""
import json
import math
import struct
import sys

import torch

LAYERS, KV_HEADS, GROUP, DIM, TOKENS, PAIRS = 1, 2, 2, 8, 200, 24
POSITIONS = [132, 150, 151, 167, 180, 199]
SINKS, RECENT, MIN_SELECTED, RATIO = 4, 64, 64, 0.02
PLANE_STEP = {4: torch.tensor(0.335).item(), 3: torch.tensor(0.586).item()}  # fp32 numbers

# name: encoder, loss, query, per query head, bits, planes, prefix bits, prefix weight
CASES = {
    "z": ("z", "ce", "real", False, 64, 4, 32, 0.5),
    "z_bits": ("z", "ce", "bits", False, 32, 4, 0, 0.0),
    "linear_per_query_head": ("linear", "soft-topk", "real", True, 32, 3, 0, 0.0),
    "linear": ("linear", "ce", "bits", False, 64, 4, 32, 1.0),
    "linear_real": ("linear", "bt", "real", False, 32, 4, 0, 0.0),
    "paper": ("paper", "bt", "bits", True, 32, 4, 0, 0.0),
}
KEY_HIDDEN, QUERY_HIDDEN = 16, 16


class StraightThrough(torch.autograd.Function):
    """The first argument forward, the second's gradient backward."""

    @staticmethod
    def forward(ctx, value, surrogate):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient


def soft_bits(h, steepness):
    return steepness * h / (1 + (steepness * h).abs())


def hard_bits(h):
    return torch.where(h >= 0, 1.0, -1.0).double()


def to_planes(w, planes):
    unit = PLANE_STEP[planes] * max(w.detach().pow(2).mean().sqrt().item(), 1e-6)
    last = 2 ** planes - 1
    levels = [min(max(2 * math.floor(x / unit) + 1, -last), last) for x in w.tolist()]
    return StraightThrough.apply(torch.tensor(levels, dtype=torch.float64) * unit / 2, w)


def encode(encoder, parameters, side, x, rotations):
    """x [n, in] -> [n, N]"""
    p = {name[len(side) + 1:]: value for name, value in parameters.items() if name.startswith(side + ".")}
    if encoder == "linear":
        return x @ p["skip"] + p["b2"]
    a = x @ p["w1"] + p["b1"]
    y = a * torch.sigmoid(a)
    if encoder == "paper":
        y = y + x
        return y @ p["w2"] + p["b2"] + y @ rotations
    return y @ p["w2"] + p["b2"] + x @ p["skip"]


def shapes_of(encoder, query, group, bits):
    def side(width, hidden):
        if encoder == "linear":
            return {"skip": (width, bits), "b2": (1, bits)}
        both = {"w1": (width, hidden), "b1": (1, hidden), "w2": (hidden, bits), "b2": (1, bits)}
        return both if encoder == "paper" else {**both, "skip": (width, bits)}

    width = group * DIM if query == "real" else DIM
    shapes = {"key." + n: s for n, s in side(DIM, KEY_HIDDEN if encoder == "z" else DIM).items()}
    if not (encoder == "linear" and query == "bits"):  # one projection for both
        shapes.update({"query." + n: s for n, s in side(width, QUERY_HIDDEN if encoder == "z" else DIM).items()})
    shapes["log_scale"] = (1, 1)
    return shapes


def num_selected(position):
    context = position + 1
    return min(context - SINKS - RECENT, max(math.ceil(RATIO * context), MIN_SELECTED))


def ranked(mass, candidates):
    return sorted(candidates, key=lambda j: (-mass[j].item(), j))


def ranking_loss(kind, z, mass, position, pairs):
    """The loss of one query, or the list of its counting pairs' losses."""
    candidates = list(range(SINKS, position - RECENT + 1))
    best = ranked(mass, candidates)[:num_selected(position)]
    if kind == "bt":
        threshold = mass[best[-1]]
        return [torch.log1p(torch.exp(-(z[best[rank]] - z[other]))) for rank, other in pairs if mass[other] < threshold]
    target = {j: 1.0 / len(best) for j in best} if kind == "soft-topk" else \
        {j: (mass[j] / sum(mass[i] for i in candidates)).item() for j in candidates}
    inside = z[SINKS:position - RECENT + 1]
    return torch.logsumexp(inside, 0) - sum(weight * z[j] for j, weight in target.items())


def unit_loss(case, parameters, centring, q, k, pairs, rotations):
    """q [G, N, D], k [T, D] of one unit."""
    encoder, loss, query, _, bits, planes, prefix_bits, prefix_weight = case
    key_mean, key_scale, query_mean, query_scale = centring
    steepness = 4.0 if query == "real" else 64.0
    h = encode(encoder, parameters, "key", (k - key_mean) * key_scale, rotations)
    key_bits = soft_bits(h, steepness)
    if query == "real":
        key_bits = StraightThrough.apply(hard_bits(h), key_bits)
    side = "query" if "query.b2" in parameters else "key"
    scale = torch.exp(parameters["log_scale"][0, 0])
    terms = [(bits, 1.0)] + ([(prefix_bits, prefix_weight)] if prefix_bits else [])
    total = 0.0
    for count, share in terms:
        values = []
        for n, position in enumerate(POSITIONS):
            if query == "real":
                x = torch.cat([q[g, n] for g in range(q.shape[0])])
                w = to_planes(encode(encoder, parameters, side, ((x - query_mean) * query_scale)[None], rotations)[0],
                              planes)
            else:
                each = [encode(encoder, parameters, side, ((q[g, n] - query_mean) * query_scale)[None], rotations)[0]
                        for g in range(q.shape[0])]
                w = sum(soft_bits(e, steepness) for e in each)
            z = math.sqrt(bits / count) * scale * (key_bits[:, :count] @ w[:count])
            mass = sum(torch.softmax(k[:position + 1] @ q[g, n] / math.sqrt(DIM), 0) for g in range(q.shape[0]))
            value = ranking_loss(loss, z, mass, position, pairs[n])
            values += value if loss == "bt" else [value]
        total = total + share * sum(values) / len(values)
    return total


def save(path, tensors):
    header, data = {}, b""
    for name, tensor in sorted(tensors.items()):
        kind = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}[tensor.dtype]
        code = {"F32": "f", "F64": "d", "I64": "q"}[kind]
        raw = struct.pack(f"<{tensor.numel()}{code}", *tensor.flatten().tolist())
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + data)


def main():
    random = torch.Generator().manual_seed(20)

    def normal(*shape):  # fp32 numbers
        return torch.randn(*shape, generator=random)

    q, k = 2 * normal(LAYERS * KV_HEADS, GROUP, len(POSITIONS), DIM), 1 + 2 * normal(LAYERS * KV_HEADS, TOKENS, DIM)
    ranks = torch.stack([torch.randint(0, num_selected(p), (PAIRS,), generator=random) for p in POSITIONS])
    others = torch.stack([torch.randint(SINKS, p - RECENT + 1, (PAIRS,), generator=random) for p in POSITIONS])
    out = {"q": q, "k": k, "positions": torch.tensor(POSITIONS), "pairs.rank": ranks, "pairs.other": others}
    pairs = [list(zip(r, o)) for r, o in zip(ranks.tolist(), others.tolist())]
    for name, case in CASES.items():
        encoder, _, query, per_query_head, bits = case[:5]
        units = LAYERS * KV_HEADS * (GROUP if per_query_head else 1)
        group = 1 if per_query_head else GROUP
        width = group * DIM if query == "real" else DIM
        rotations = normal(DIM, bits)
        # Small enough that the steep bits of the symmetric form are not all saturated.
        size = 0.35 if query == "real" else 0.1
        values = {n: size * normal(units, *s) for n, s in shapes_of(encoder, query, group, bits).items()}
        values["log_scale"] = -1.5 + 0.1 * normal(units, 1, 1)
        centring = {"key_mean": 1 + 0.1 * normal(units, 1, DIM), "key_scale": 0.5 + 0.1 * normal(units, 1, 1).abs(),
                    "query_mean": 0.1 * normal(units, 1, width), "query_scale": 0.5 + 0.1 * normal(units, 1, width).abs()}
        losses, gradients = [], {n: [] for n in values}
        for unit in range(units):
            parameters = {n: v[unit].double().requires_grad_(True) for n, v in values.items()}
            head = unit // GROUP if per_query_head else unit
            heads = slice(unit % GROUP, unit % GROUP + 1) if per_query_head else slice(None)
            loss = unit_loss(case, parameters, [centring[n][unit, 0].double() for n in centring],
                             q[head, heads].double(), k[head].double(), pairs, rotations.double())
            loss.backward()
            losses.append(loss.detach())
            for n, p in parameters.items():
                gradients[n].append(p.grad)
        out[f"{name}.rotations"] = rotations
        out[f"{name}.loss"] = torch.stack(losses)
        out.update({f"{name}.centring.{n}": v for n, v in centring.items()})
        out.update({f"{name}.parameter.{n}": v for n, v in values.items()})
        out.update({f"{name}.gradient.{n}": torch.stack(g) for n, g in gradients.items()})
    save(sys.argv[1], out)


if __name__ == "__main__":
    main()
