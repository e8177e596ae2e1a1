#!/usr/bin/env python3
"""Measures one layer again, from the checkpoint and the texts, and compares with a JSON report of spotlight-eval.

    spotlight-eval --model DIR --hash FILE --text FILE... --dtype fp32 --selectors oracle-a,oracle-b,hash --json OUT
    tools/check_evaluation.py OUT --layer 11

Nothing is shared with the C++: a Llama-family forward pass, the hash file's encoders and the measures are written out
here in PyTorch (fp32; sets and sums in fp64). Needs torch and tokenizers. Exits 1 when a figure is further from the
report's than --tolerance.
"""
import argparse, json, math, os, struct, sys

import torch
import torch.nn.functional as F

SINKS, RECENT, MIN_TOKENS = 4, 64, 64


def read_safetensors(path):
    dtypes = {'F32': torch.float32, 'BF16': torch.bfloat16, 'F16': torch.float16, 'I8': torch.int8}
    with open(path, 'rb') as file:
        data = bytearray(file.read())
    size = struct.unpack('<Q', data[:8])[0]
    header = json.loads(bytes(data[8:8 + size]))
    metadata = header.pop('__metadata__', {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry['data_offsets'])
        values = torch.frombuffer(data[begin:end], dtype=dtypes[entry['dtype']])
        tensors[name] = values.float().reshape(entry['shape'])
    return tensors, metadata


class Model:
    def __init__(self, folder):
        self.config = json.load(open(f'{folder}/config.json'))
        self.w = {}
        for name in sorted(os.listdir(folder)):
            if name.endswith('.safetensors') and name != 'spotlight_hash.safetensors':
                self.w.update(read_safetensors(f'{folder}/{name}')[0])
        c = self.config
        self.hq, self.hkv = c['num_attention_heads'], c['num_key_value_heads']
        self.d = c.get('head_dim') or c['hidden_size'] // self.hq

    def norm(self, x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config['rms_norm_eps']) * self.w[name]

    def linear(self, x, name):
        return F.linear(x, self.w[f'{name}.weight'], self.w.get(f'{name}.bias'))

    def rotate(self, x):
        half = self.d // 2
        inv = self.config['rope_theta'] ** (-torch.arange(half).float() / half)
        angle = torch.outer(torch.arange(x.shape[1]).float(), inv)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def attention_input(self, ids, layer):
        """q [Hq, T, D], k and v [Hkv, T, D] of `layer` after RoPE."""
        h = self.w['model.embed_tokens.weight'][ids]
        for i in range(layer + 1):
            p = f'model.layers.{i}.'
            x = self.norm(h, p + 'input_layernorm.weight')
            heads = lambda name, count: self.linear(x, p + f'self_attn.{name}_proj').view(len(ids), count, self.d).transpose(0, 1)
            q, k, v = self.rotate(heads('q', self.hq)), self.rotate(heads('k', self.hkv)), heads('v', self.hkv)
            if i == layer:
                return q, k, v
            group = self.hq // self.hkv
            o = F.scaled_dot_product_attention(q[None], k.repeat_interleave(group, 0)[None],
                                               v.repeat_interleave(group, 0)[None], is_causal=True)[0]
            h = h + self.linear(o.transpose(0, 1).reshape(len(ids), -1), p + 'self_attn.o_proj')
            x = self.norm(h, p + 'post_attention_layernorm.weight')
            h = h + self.linear(F.silu(self.linear(x, p + 'mlp.gate_proj')) * self.linear(x, p + 'mlp.up_proj'),
                                p + 'mlp.down_proj')


class Hash:
    """A file that is served: encoder z or linear, real-valued queries quantised to planes."""

    def __init__(self, path, layer):
        tensors, self.meta = read_safetensors(path)
        assert self.meta['scoring'] == 'asymmetric', 'checks what is served: scoring = asymmetric'
        prefix = f'layers.{layer}.'
        self.w = {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}
        for name in [name for name in self.w if name.endswith('.scale')]:  # 8-bit matrices are served in bf16
            matrix, scale = name[:-len('.scale')], self.w.pop(name)
            self.w[matrix] = (self.w[matrix] * scale[:, None]).bfloat16().float()

    def encode(self, side, x):
        h = x @ self.w[f'{side}.skip'] + self.w[f'{side}.b2'][:, None]
        if f'{side}.w1' in self.w:
            h = h + F.silu(x @ self.w[f'{side}.w1'] + self.w[f'{side}.b1'][:, None]) @ self.w[f'{side}.w2']
        return h

    def scores(self, q, k):
        """q [Hkv, G, N, D], k [Hkv, T, D] -> [Hkv, N, T]"""
        hkv, group, n, d = q.shape
        bits = torch.where(self.encode('key', k) >= 0, 1.0, -1.0)
        w = self.encode('query', q.permute(0, 2, 1, 3).reshape(hkv, n, group * d))
        unit = float(self.meta['plane_step']) * w.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
        most = 2 ** int(self.meta['planes']) - 1
        return (2 * torch.floor(w / unit) + 1).clamp(-most, most) @ bits.transpose(1, 2)


def best(scores, count):
    """Set of the `count` best indices; of equal scores the lower index."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return set(order[:count])


def measure(model, hash_file, ids, positions, layer, ratio):
    """{selector: [queries, Hkv] lists of measures} of one sequence."""
    q, k, v = model.attention_input(torch.tensor(ids), layer)
    group = model.hq // model.hkv
    q = q[:, positions].view(model.hkv, group, len(positions), model.d)
    scores = hash_file.scores(q, k).double() if hash_file else None
    q, k, v = q.double(), k.double(), v.double()
    out = {}
    for n, position in enumerate(positions):
        length = position + 1
        count = min(length - SINKS - RECENT, max(math.ceil(ratio * length), MIN_TOKENS))
        candidates = slice(SINKS, length - RECENT)
        for head in range(model.hkv):
            logits = q[head, :, n] @ k[head, :length].T / math.sqrt(model.d)
            probs = torch.softmax(logits, -1)
            dense = probs @ v[head, :length]
            own = [best(logits[g, candidates].tolist(), count) for g in range(group)]
            shared = best(probs.sum(0)[candidates].tolist(), count)
            chosen = {'oracle-a': own, 'oracle-b': [shared] * group}
            if hash_file:
                chosen['hash'] = [best(scores[head, n, candidates].tolist(), count)] * group
            for name, sets in chosen.items():
                row = dict(iou_a=0, rec_b=0, iou_b=0, mass_c=0, mass=0, err=0)
                for g, tokens in enumerate(sets):
                    index = torch.tensor(sorted(tokens)) + SINKS
                    keep = torch.ones(length, dtype=torch.bool)
                    keep[candidates] = False
                    keep[index] = True
                    weights = torch.softmax(logits[g].masked_fill(~keep, -math.inf), -1)
                    output = weights @ v[head, :length]
                    row['iou_a'] += len(tokens & own[g]) / len(tokens | own[g]) / group
                    row['rec_b'] += len(tokens & shared) / len(shared) / group
                    row['iou_b'] += len(tokens & shared) / len(tokens | shared) / group
                    row['mass_c'] += float(probs[g, index].sum() / probs[g, candidates].sum()) / group
                    row['mass'] += float(probs[g, keep].sum()) / group
                    row['err'] += float((output - dense[g]).norm() / dense[g].norm()) / group
                out.setdefault(name, {}).setdefault(head, []).append(row)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('report')
    parser.add_argument('--layer', type=int, default=11)
    parser.add_argument('--tolerance', type=float, default=2e-3)
    args = parser.parse_args()
    report = json.load(open(args.report))
    model = Model(report['model']['folder'])
    hash_file = Hash(report['hash'], args.layer) if report['hash'] else None
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(f"{report['model']['folder']}/tokenizer.json")
    paths = {text['name']: text['path'] for text in report['texts']}
    start = tokenizer.encode('').ids
    budgets = sorted({row['budget'] for row in report['rows']})
    found = {}
    for sequence in report['sequences']:
        text = open(paths[sequence['text']], encoding='utf-8', newline='').read()
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        body = sequence['context'] - len(start)
        ids = start + ids[sequence['index'] * body:(sequence['index'] + 1) * body]
        for budget in budgets:
            measured = measure(model, hash_file, ids, sequence['positions'], args.layer, budget)
            for name, heads in measured.items():
                for head, rows in heads.items():
                    found.setdefault((name, budget, sequence['context'], head), []).extend(rows)
        print(f"{sequence['text']}, {sequence['context']} tokens: measured again", file=sys.stderr)
    reported = {(row['selector'], row['budget'], row['context'], row['head']): row
                for row in report['heads'] if row['layer'] == args.layer}
    worst = 0
    print(f"{'selector':10} {'budget':>6} {'head':>4}  measure     here  report  difference")
    for key, rows in sorted(found.items()):
        if key not in reported:
            continue
        for name in rows[0]:
            here = sum(row[name] for row in rows) / len(rows)
            difference = abs(here - reported[key][name])
            worst = max(worst, difference)
            print(f'{key[0]:10} {key[1]:6g} {key[3]:4}  {name:7} {here:8.5f} {reported[key][name]:7.5f} {difference:10.1e}')
    print(f'layer {args.layer}: largest difference {worst:.1e}, tolerance {args.tolerance:g}')
    return 0 if found and worst <= args.tolerance else 1


if __name__ == '__main__':
    sys.exit(main())
