#!/usr/bin/env python3
"""Turns a GGUF file of a Llama or Qwen2 model into a Hugging Face folder.

Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json (with the chat template) and
model.safetensors. Deterministic. Needs gguf and numpy only (requirements.txt beside this file): no torch, no transformers.
"""
import argparse
import json
import os
import shutil
import struct
import sys

import numpy as np
from gguf import GGUFReader, dequantize

from gguf_tokenizer import Unsupported, tokenizer_files

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3.1's frequency scaling, tabulated; the folder says it in config.json


def hf_name(name):
    stem, _, kind = name.rpartition(".")
    if stem.startswith("blk."):
        _, layer, part = stem.split(".", 2)
        if part in BLOCK:
            return f"model.layers.{layer}.{BLOCK[part]}.{kind}"
    elif stem in TOP:
        return f"{TOP[stem]}.{kind}"
    raise Unsupported(f"tensor {name!r} has no place in a Llama or Qwen2 checkpoint")


def unpermute(weight, heads):
    """llama.cpp interleaves the two rotary halves of q and k (llama only); this undoes it."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def to_bf16(x):  # round to nearest even; weights hold no NaN
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


DTYPES = {"bfloat16": ("BF16", 2, to_bf16), "float16": ("F16", 2, lambda x: x.astype(np.float16)),
          "float32": ("F32", 4, lambda x: x.astype(np.float32))}


def shortest(value):
    """A float32 from the file, as the shortest decimal that reads back the same."""
    return float(str(np.float32(value)))


def llama3_factors(head_dim, theta, factor, low, high, original):
    """What transformers' llama3 rope type divides each frequency by."""
    wavelen = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelen - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def llama3_scaling(table, head_dim, theta):
    """The rope_scaling that `table` was made from. All published models have low 1 and high 4; the rest is solved for."""
    table = np.asarray(table, np.float64)
    factor, low, high = shortest(table.max()), 1.0, 4.0
    wavelen = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    between = np.flatnonzero((table > 1.0001) & (table < factor * 0.9999))
    if len(table) == head_dim // 2 and len(between):
        smooth = (1 / table[between] - 1 / factor) / (1 - 1 / factor)
        original = round(float(np.median(wavelen[between] * (low + smooth * (high - low)))))
        if np.allclose(table, llama3_factors(head_dim, theta, factor, low, high, original), rtol=1e-3):
            return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                    "original_max_position_embeddings": original}
    raise Unsupported(f"{ROPE_FACTORS} is not a llama3 RoPE scaling")


def rope_scaling(reader, meta, head_dim, theta):
    tensor = next((t for t in reader.tensors if t.name == ROPE_FACTORS), None)
    if tensor is not None:
        return llama3_scaling(dequantize(tensor.data, tensor.tensor_type), head_dim, theta)
    kind = meta("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise Unsupported(f"RoPE scaling {kind!r} is not supported (linear, yarn, llama3)")
    scaling = {"rope_type": kind, "factor": shortest(meta("rope.scaling.factor"))}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = meta("rope.scaling.original_context_length")
    return scaling


def model_config(reader, arch, meta, ids, dtype):
    names = {t.name for t in reader.tensors}
    hidden, heads = meta("embedding_length"), meta("attention.head_count")
    rotary = meta("rope.dimension_count", hidden // heads)
    head_dim = meta("attention.key_length", rotary)
    if rotary != head_dim:
        raise Unsupported(f"rotary dimensions {rotary} of head_dim {head_dim}: partial rotation is not supported")
    if meta("expert_count", 0):
        raise Unsupported("mixture-of-experts models are not supported")
    theta = shortest(meta("rope.freq_base", 10000.0))
    embedding = next((t for t in reader.tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise Unsupported("has no tensor 'token_embd.weight'")
    config = {
        "architectures": [ARCHITECTURES[arch]], "model_type": arch, "hidden_size": hidden,
        "intermediate_size": meta("feed_forward_length"), "num_hidden_layers": meta("block_count"),
        "num_attention_heads": heads, "num_key_value_heads": meta("attention.head_count_kv", heads), "head_dim": head_dim,
        "max_position_embeddings": meta("context_length"), "rope_theta": theta,
        "rms_norm_eps": shortest(meta("attention.layer_norm_rms_epsilon")), "vocab_size": int(embedding.shape[1]),
        "hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02,
        "tie_word_embeddings": "output.weight" not in names, "use_cache": True,
        **ids, "torch_dtype": dtype}
    scaling = rope_scaling(reader, meta, head_dim, theta)
    if scaling:
        config["rope_scaling"] = scaling
    if arch == "qwen2":
        config["use_sliding_window"] = False
    else:
        config["attention_bias"] = "blk.0.attn_q.bias" in names
        config["mlp_bias"] = False
        if config["attention_bias"] and "blk.0.attn_output.bias" not in names:
            raise Unsupported("q, k and v have biases but o has none: no Llama checkpoint can say so")
    return config


def write_safetensors(path, reader, arch, config, dtype):
    """u64 little-endian header length, JSON header padded so that the data start on 64 bytes, raw data."""
    label, itemsize, convert = DTYPES[dtype]
    tensors = sorted((hf_name(t.name), t) for t in reader.tensors if t.name != ROPE_FACTORS)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors:
        shape = [int(n) for n in tensor.shape[::-1]]
        end = offset + int(np.prod(shape)) * itemsize
        header[name] = {"dtype": label, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for done, (name, tensor) in enumerate(tensors, 1):
            weight = dequantize(tensor.data, tensor.tensor_type)
            part = tensor.name.split(".")[-2]
            if arch == "llama" and part in heads:
                weight = unpermute(weight, heads[part])
            file.write(np.ascontiguousarray(convert(weight)).tobytes())
            if done % 50 == 0 or done == len(tensors):
                print(f"{done} of {len(tensors)} tensors", file=sys.stderr)


def convert(source, out, dtype):
    try:
        reader = GGUFReader(source)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as e:
        raise Unsupported(f"not a readable GGUF file ({e})") from e

    def field(key, default=None):
        return reader.fields[key].contents() if key in reader.fields else default

    arch = field("general.architecture")
    if arch not in ARCHITECTURES:
        raise Unsupported(f"architecture {arch!r} is not supported ({', '.join(ARCHITECTURES)})")

    def meta(key, default=None):
        value = field(f"{arch}.{key}", default)
        if value is None:
            raise Unsupported(f"has no field {arch}.{key}")
        return value

    files, ids, ends = tokenizer_files(field, arch, meta("context_length"))
    config = model_config(reader, arch, meta, ids, dtype)
    files["config"] = config
    files["generation_config"] = {**ids, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    for name, content in files.items():
        with open(f"{out}/{name}.json", "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=None if name == "tokenizer" else 2)
    write_safetensors(f"{out}/model.safetensors", reader, arch, config, dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", help="the GGUF file (one file; quantised or not)")
    parser.add_argument("out", help="the folder to make; must not exist")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the weights (default: bfloat16)")
    args = parser.parse_args()
    part = f"{args.out.rstrip('/')}.part"
    try:
        if not os.path.isfile(args.gguf):
            raise Unsupported("no such file")
        if os.path.exists(args.out):
            sys.exit(f"{args.out}: exists already")
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
        convert(args.gguf, part, args.dtype)
        os.rename(part, args.out)
    except (Unsupported, NotImplementedError) as e:
        sys.exit(f"{args.gguf}: {e}")
    except OSError as e:
        sys.exit(str(e))
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(args.out)


if __name__ == "__main__":
    main()
