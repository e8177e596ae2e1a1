#!/usr/bin/env python3
"""Makes the tiny checkpoints of the tests: tests/testdata/tiny-llama and tests/testdata/tiny-qwen2.

Random weights (bf16, fixed seeds) behind the published file formats: 4 layers, hidden 64, one key/value head of 64
dimensions, a byte-level tokenizer of 512 entries. tiny-llama: 3 query heads, tied embeddings, Llama 3's tokenizer
pipeline and RoPE scaling, two shards. tiny-qwen2: 7 query heads, q/k/v biases, untied embeddings, Qwen2's pipeline.
Needs numpy 2.4.6 and tokenizers 0.22.2; the same versions give the same bytes.
"""
import json
import pathlib
import shutil
import struct

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from gguf_tokenizer import LLAMA3_SPLIT, QWEN2_SPLIT, pipeline

TOOLS = pathlib.Path(__file__).resolve().parent
TESTDATA = TOOLS.parent / "tests" / "testdata"
LAYERS, HIDDEN, INTERMEDIATE, HEAD_DIM, VOCAB = 4, 64, 96, 64, 512
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
NEEDS_USER_FIRST = ("{% if messages[0]['role'] not in ['user', 'system'] %}"
                    "{{ raise_exception('The first message must come from the user or the system') }}{% endif %}")

LLAMA = {
    "folder": "tiny-llama", "pre": "llama-bpe", "split": LLAMA3_SPLIT, "special": ["<|begin_of_text|>"] + SPECIAL,
    "template": "{{ bos_token }}" + NEEDS_USER_FIRST + CHATML, "seed": 20240801, "heads": 3, "shards": 2,
    "config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False,
               "tie_word_embeddings": True, "rope_theta": 500000.0, "rms_norm_eps": 1e-05,
               "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 1024}}}
QWEN2 = {
    "folder": "tiny-qwen2", "pre": "qwen2", "split": QWEN2_SPLIT, "special": SPECIAL, "template": CHATML,
    "seed": 20240802, "heads": 7, "shards": 1,
    "config": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False,
               "tie_word_embeddings": False, "rope_theta": 1000000.0, "rms_norm_eps": 1e-06}}


def write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def make_tokenizer(out, spec):
    """Returns the special tokens' ids."""
    trained = Tokenizer(models.BPE())
    if spec["pre"] == "qwen2":
        trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(spec["split"]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    size = VOCAB - len(spec["special"])
    trained.train([str(TOOLS / "tiny_corpus.txt")], trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    model = json.loads(trained.to_str())["model"]
    assert len(model["vocab"]) == size, "the corpus is too short for the vocabulary"

    ids = {token: size + i for i, token in enumerate(spec["special"])}
    bos = ids.get("<|begin_of_text|>")
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), *spec["special"]]
    normalizer, pre_tokenizer, post_processor, decoder, options = pipeline(spec["pre"], tokens, bos)
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for token, i in ids.items()]
    write_json(out / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder,
        "model": {**model, **options, "vocab": dict(sorted(model["vocab"].items(), key=lambda item: item[1]))}})
    write_json(out / "tokenizer_config.json", {
        "added_tokens_decoder": {str(x["id"]): {k: v for k, v in x.items() if k != "id"} for x in added},
        "bos_token": "<|begin_of_text|>" if bos else None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": None, "clean_up_tokenization_spaces": False, "model_max_length": 8192,
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": spec["template"]})
    return ids


def make_weights(spec):
    """Scaled so that attention is uneven and greedy text varies: queries and keys count, embeddings are small."""
    rng = np.random.Generator(np.random.PCG64(spec["seed"]))
    q_size = spec["heads"] * HEAD_DIM
    weights = {}

    def linear(name, rows, columns, gain=1.0):
        weights[f"{name}.weight"] = rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)

    def norm(name):
        weights[f"{name}.weight"] = 1 + 0.1 * rng.standard_normal(HIDDEN)

    weights["model.embed_tokens.weight"] = 0.4 * rng.standard_normal((VOCAB, HIDDEN))
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for part, rows, gain in (("q", q_size, 2.2), ("k", HEAD_DIM, 2.2), ("v", HEAD_DIM, 2.0)):
            linear(f"{prefix}.self_attn.{part}_proj", rows, HIDDEN, gain)
            if spec is QWEN2:
                weights[f"{prefix}.self_attn.{part}_proj.bias"] = 0.3 * rng.standard_normal(rows)
        linear(f"{prefix}.self_attn.o_proj", HIDDEN, q_size, 2.0)
        linear(f"{prefix}.mlp.gate_proj", INTERMEDIATE, HIDDEN)
        linear(f"{prefix}.mlp.up_proj", INTERMEDIATE, HIDDEN)
        linear(f"{prefix}.mlp.down_proj", HIDDEN, INTERMEDIATE, 1.5)
        norm(f"{prefix}.input_layernorm")
        norm(f"{prefix}.post_attention_layernorm")
    norm("model.norm")
    if not spec["config"]["tie_word_embeddings"]:
        linear("lm_head", VOCAB, HIDDEN, 3.0)
    return weights


def to_bf16(x):  # round to nearest even
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, weights):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name in sorted(weights):
        raw = to_bf16(weights[name]).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(weights[name].shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return len(data)


def write_weights(out, weights, shards):
    if shards == 1:
        write_safetensors(out / "model.safetensors", weights)
        return
    names = sorted(weights)
    files, total = {}, 0
    for i in range(shards):
        part = names[i * len(names) // shards:(i + 1) * len(names) // shards]
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        total += write_safetensors(out / file, {name: weights[name] for name in part})
        files.update({name: file for name in part})
    write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})


def make(spec):
    out = TESTDATA / spec["folder"]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    ids = make_tokenizer(out, spec)
    token_ids = {"bos_token_id": ids.get("<|begin_of_text|>"), "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
                 "pad_token_id": ids["<|endoftext|>"]}
    write_json(out / "config.json", {
        **spec["config"], "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": spec["heads"], "num_key_value_heads": 1, "head_dim": HEAD_DIM, "vocab_size": VOCAB,
        "max_position_embeddings": 8192, "hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02,
        "use_cache": True, **token_ids, "torch_dtype": "bfloat16"})
    write_json(out / "generation_config.json", token_ids)
    write_weights(out, make_weights(spec), spec["shards"])
    print(out, sum(f.stat().st_size for f in out.iterdir()), "bytes")


if __name__ == "__main__":
    make(LLAMA)
    make(QWEN2)
