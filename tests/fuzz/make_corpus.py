"""Writes the corpus: small inputs for each target, named valid-* and refused-*. What fuzzers found lies beside them
under other names and is left alone.

usage: tests/fuzz/make_corpus.py    (in the repository's root; needs protoc)
"""
import json
import pathlib
import struct
import subprocess

CORPUS = pathlib.Path("tests/fuzz/corpus")
PROTO = "proto/spotlight/v1/generation.proto"


def write(target, files):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("valid-*"), *folder.glob("refused-*")]:
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


# ---------------------------------------------------------------- config

def config_files():
    def model(architecture, model_type, **fields):
        return {"architectures": [architecture], "model_type": model_type, "hidden_size": 64, "intermediate_size": 96,
                "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
                "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, **fields}

    def llama(**fields):
        return model("LlamaForCausalLM", "llama", **fields)

    def files(config, generation=None):
        text = json.dumps(config)
        return text if generation is None else text + "\0" + json.dumps(generation)

    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 1024}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "beta_fast": 32.0,
            "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05,
                  "repetition_penalty": 1.05, "eos_token_id": [509, 511]}
    return {
        "valid-llama3": files(llama(rope_scaling=llama3, eos_token_id=[511, 509], tie_word_embeddings=True), generation),
        "valid-llama-linear": files(llama(rope_scaling={"type": "linear", "factor": 2}, attention_bias=True,
                                          mlp_bias=True, head_dim=32, eos_token_id=2)),
        "valid-qwen2-yarn": files(model("Qwen2ForCausalLM", "qwen2", rope_scaling=yarn, use_sliding_window=False,
                                        sliding_window=1024, max_window_layers=4), {"do_sample": False}),
        "valid-qwen2-window": files(model("Qwen2ForCausalLM", "qwen2", use_sliding_window=True, sliding_window=1024,
                                          layer_types=["full_attention", "sliding_attention"] * 2)),
        "valid-mistral": files(model("MistralForCausalLM", "mistral", sliding_window=None,
                                     rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
        "refused-heads": files(llama(num_key_value_heads=3)),
        "refused-architecture": files(model("GPT2LMHeadModel", "gpt2")),
        "refused-two-ropes": files(llama(rope_scaling=llama3, rope_parameters=yarn)),
        "refused-quantised": files(llama(quantization_config={"quant_method": "gptq", "bits": 4})),
        "refused-generation": files(llama(), {"temperature": -1}),
        "refused-vocabulary": files(llama(vocab_size=9223372036854775808)),
        "refused-deep": "[" * 3000,
        "refused-cut": files(llama(rope_scaling=llama3))[:200],
        "refused-empty": "",
    }


# ---------------------------------------------------------------- safetensors

def safetensors(header, data=b""):
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_files():
    mixed = {"__metadata__": {"format": "pt", "note": "\u00e9"}, "a": tensor("F32", [2], 0, 8),
             "b": tensor("BF16", [2, 3], 8, 20), "c": tensor("I64", [1], 20, 28), "d": tensor("F16", [2], 28, 32),
             "e": tensor("I8", [1, 2, 2], 32, 36), "f": tensor("F4", [2], 36, 37), "empty": tensor("F32", [0, 5], 37, 37)}
    return {
        "valid-mixed": safetensors(mixed, bytes(range(37))),
        "valid-one": safetensors({"weight": tensor("F32", [], 0, 4)}, b"1234"),
        "valid-none": safetensors("{}   "),
        "refused-overlap": safetensors({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [1], 4, 8)}, bytes(8)),
        "refused-hole": safetensors({"a": tensor("F32", [1], 4, 8)}, bytes(8)),
        "refused-past-end": safetensors({"a": tensor("F32", [2**40], 0, 2**42)}, bytes(8)),
        "refused-overflow": safetensors({"a": tensor("F32", [2**62, 2**62, 4], 0, 0)}),
        "refused-twice": safetensors('{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},'
                                     ' "a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}', b"12"),
        "refused-negative": safetensors({"a": tensor("U8", [-1], 0, 1)}, b"1"),
        "refused-long-header": struct.pack("<Q", 2**63) + b"{}",
        "refused-not-json": safetensors("{\"a\""),
        "refused-short": b"\x02\x00\x00",
    }


def shard_index_files():
    def index(**weight_map):
        return json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map})

    return {
        "valid-both": index(a="1.safetensors", b="2.safetensors"),
        "valid-one": index(b="2.safetensors"),
        "refused-missing": index(a="3.safetensors"),
        "refused-elsewhere": index(a="2.safetensors"),
        "refused-path": index(a="../1.safetensors"),
        "refused-itself": index(a="model.safetensors.index.json"),
        "refused-number": json.dumps({"weight_map": {"a": 1}}),
        "refused-empty": json.dumps({"weight_map": {}}),
        "refused-list": "[]",
    }


# ---------------------------------------------------------------- hash files

HEADS, HEAD_DIM, GROUP, BITS, HIDDEN = 1, 2, 2, 32, 16


def hash_file(encoder="z", dtype="BF16", int8=False, trained="true", layers=(1, 2), **changed):
    metadata = {"format": "spotlight-hash-1", "encoder": encoder, "scoring": "asymmetric", "planes": "2",
                "plane_step": "0.5", "hash_bits": str(BITS), "prefix_bits": "0", "num_layers": "3",
                "num_kv_heads": str(HEADS), "group": str(GROUP), "head_dim": str(HEAD_DIM),
                "layers": ",".join(map(str, layers)), "model_fingerprint": "0123", "trained": trained, **changed}
    header, data = {"__metadata__": metadata}, b""

    def add(name, kind, shape):
        nonlocal data
        count = 1
        for size in shape:
            count *= size
        value = {"BF16": b"\x80\x3f", "F32": struct.pack("<f", 0.25), "I8": b"\x07"}[kind]
        header[name] = tensor(kind, shape, len(data), len(data) + count * len(value))
        data += value * count

    def matrix(name, shape):
        add(name, "I8" if int8 else dtype, shape)
        if int8:
            add(name + ".scale", "F32", [shape[0], shape[2]])

    for layer in layers:
        for part, inputs in (("key", HEAD_DIM), ("query", GROUP * HEAD_DIM)):
            prefix = f"layers.{layer}.{part}."
            if encoder == "z":
                matrix(prefix + "w1", [HEADS, inputs, HIDDEN])
                add(prefix + "b1", dtype, [HEADS, HIDDEN])
                matrix(prefix + "w2", [HEADS, HIDDEN, BITS])
            add(prefix + "b2", dtype, [HEADS, BITS])
            matrix(prefix + "skip", [HEADS, inputs, BITS])
        add(f"layers.{layer}.logit_scale", "F32", [HEADS])
    return safetensors(header, data)


def hash_file_files():
    whole = hash_file(layers=(2,))
    return {
        "valid-z": whole,
        "valid-linear": hash_file("linear", "F32", prefix_bits="32"),
        "valid-int8": hash_file(int8=True, layers=(2,)),
        "valid-untrained": hash_file("linear", trained="false", layers=(0,)),
        "refused-format": hash_file("linear", format="spotlight-hash-2"),
        "refused-model": hash_file("linear", model_fingerprint="4567"),
        "refused-bits": hash_file("linear", hash_bits="256"),
        "refused-heads": hash_file("linear", num_kv_heads="1048576"),
        "refused-layers": hash_file("linear", num_layers="1", layers=(1, 2)),
        "refused-planes": hash_file("linear", planes="0"),
        "refused-step": hash_file("linear", plane_step="nan"),
        "refused-no-metadata": safetensors({}),
        "refused-cut": whole[:-8],
    }


# ---------------------------------------------------------------- tokenizers

def tokenizer(model, added=(), **parts):
    tokens = [{"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": special} for id, content, special in added]
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
                       "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts,
                       "model": model})


def vocabulary(*tokens):
    return {token: id for id, token in enumerate(tokens)}


def tokenizer_files():
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    letters = [chr(c) for c in range(33, 127)]
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
           "vocab": vocabulary(*letters, "\u0120", "he", "ll", "hell"), "merges": [["h", "e"], ["l", "l"], ["he", "ll"]]}
    gpt = tokenizer(bpe, [(98, "<s>", True), (99, "</s>", True), (100, "<tool>", False)],
                    normalizer={"type": "NFC"},
                    pre_tokenizer={"type": "Sequence", "pretokenizers": [
                        {"type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"},
                         "behavior": "Isolated", "invert": False}, byte_level]},
                    post_processor={"type": "TemplateProcessing",
                                    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                               {"Sequence": {"id": "A", "type_id": 0}}],
                                    "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                                             {"Sequence": {"id": "B", "type_id": 1}}],
                                    "special_tokens": {"<s>": {"id": "<s>", "ids": [98], "tokens": ["<s>"]}}},
                    decoder=byte_level, truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst",
                                                    "stride": 0})
    fallback = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                "vocab": vocabulary("<unk>", "\u2581", "a", "\u2581a", *(f"<0x{b:02X}>" for b in range(0, 256, 8))),
                "merges": ["\u2581 a"]}
    llama2 = tokenizer(fallback, [(0, "<unk>", True)],
                       normalizer={"type": "Sequence", "normalizers": [
                           {"type": "Prepend", "prepend": "\u2581"},
                           {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
                       decoder={"type": "Sequence", "decoders": [
                           {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                           {"type": "ByteFallback"}, {"type": "Fuse"},
                           {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
    words = {"type": "WordLevel", "vocab": vocabulary("[UNK]", "hello", "world"), "unk_token": "[UNK]"}
    pieces = {"type": "WordPiece", "vocab": vocabulary("[UNK]", "he", "##llo", "a"), "unk_token": "[UNK]",
              "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
               "vocab": [["<unk>", 0.0], ["\u2581", -2.5], ["a", -3.0], ["\u2581hello", -4.0]]}
    return {
        "valid-bpe-byte-level": gpt,
        "valid-bpe-byte-fallback": llama2,
        "valid-word-level": tokenizer(words, pre_tokenizer={"type": "Whitespace"}),
        "valid-word-piece": tokenizer(pieces, normalizer={"type": "BertNormalizer", "clean_text": True,
                                                          "handle_chinese_chars": True, "strip_accents": None,
                                                          "lowercase": True},
                                      pre_tokenizer={"type": "BertPreTokenizer"},
                                      decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
        "valid-unigram": tokenizer(unigram, normalizer={"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Strip", "strip_left": True, "strip_right": False}]},
            pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            decoder={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}),
        "refused-merge": tokenizer({**bpe, "merges": [["q", "\u00fc"]]}),
        "refused-model": tokenizer({"type": "Nothing", "vocab": {}}),
        "refused-regex": tokenizer(words, pre_tokenizer={"type": "Split", "pattern": {"Regex": "(["},
                                                         "behavior": "Isolated", "invert": False}),
        "refused-negative-id": tokenizer({**words, "vocab": {"[UNK]": -1}}),
        "refused-no-vocabulary": tokenizer({**bpe, "vocab": {}, "merges": []}),
        "refused-deep": '{"normalizer":' * 200,
        "refused-cut": gpt[:700],
        "refused-empty": "",
    }


# ---------------------------------------------------------------- requests

def request_files():
    def encode(text, message="GenerateRequest"):
        return subprocess.run(["protoc", f"--encode=spotlight.v1.{message}", PROTO], input=text.encode(),
                              stdout=subprocess.PIPE, check=True).stdout

    chat = 'chat { messages { role: "system" content: "Be brief." } messages { role: "user" content: "Hi \u4f60" } }'
    return {
        "valid-text": encode('text: "Hello, world"'),
        "valid-chat": encode(f'request_id: "r1" model: "tiny-llama" priority: -3 {chat} return_token_ids: true '
                             'sampling { temperature: 0.7 top_p: 0.9 top_k: 40 min_p: 0.05 repetition_penalty: 1.1 '
                             'presence_penalty: 0.5 frequency_penalty: -0.5 seed: 7 n: 4 '
                             'logit_bias { key: 5 value: -100 } logit_bias { key: 6 value: 1.5 } }'),
        "valid-tokens": encode('token_ids { ids: [1, 2, 3, 511] } truncate_prompt_tokens: 2 logprobs: 20 '
                               'prompt_logprobs: 0 echo: true cache_salt: "salt" bypass_prefix_cache: true '
                               'stopping { max_tokens: 16 min_tokens: 2 stop: "\\n\\n" stop: "END" stop_token_ids: 509 '
                               'include_stop: true ignore_eos: true } retrieval { mode: RETRIEVAL_MODE_SPARSE '
                               'budget_ratio: 0.02 min_tokens: 64 sink_tokens: 0 recent_tokens: 1 return_stats: false }'),
        "refused-no-prompt": encode('request_id: "r"'),
        "refused-model": encode('model: "other" text: "a"'),
        "refused-temperature": encode('text: "a" sampling { temperature: nan }'),
        "refused-token": encode("token_ids { ids: [512] }"),
        "refused-bias": encode('text: "a" sampling { logit_bias { key: -1 value: 1 } }'),
        "refused-stop": encode('text: "a" stopping { stop: "" }'),
        "refused-mode": encode('text: "a" retrieval { mode: RETRIEVAL_MODE_DENSE budget_ratio: inf }'),
        "refused-role": encode('chat { messages { content: "x" } }'),
        "refused-not-utf8": b"\x1a\x03a\xff\xfe",
        "refused-cut": encode(f"{chat}")[:-3],
        "tokenize-chat": encode(chat, "TokenizeRequest"),
        "detokenize": encode("token_ids: [1, 2, 511, -1, 2147483647]", "DetokenizeRequest"),
        "unknown-fields": encode('text: "a"') + b"\xf8\x07\x01" * 50 + b"\xfb\x07\xfc\x07",
    }


# ---------------------------------------------------------------- requests that need no token

def field(number, content):
    """A length-delimited field of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def open_request_files():
    def duration(seconds, nanos=b""):
        return field(1, b"\x08" + seconds + nanos)

    return {
        "valid-health": b"h" + field(1, b"spotlight.v1.Generation"),
        "valid-health-of-all": b"h",
        "valid-health-unknown-field": b"h" + field(1, b"liveness") + b"\xf8\x07\x01",
        "valid-orca": b"o" + duration(b"\x0a", b"\x10\x80\xca\xb5\xee\x01") + field(2, b"prompt_tokens"),
        "valid-orca-negative": b"o" + duration(b"\xff" * 9 + b"\x01", b"\x10" + b"\xff" * 9 + b"\x01"),
        "valid-orca-longest": b"o" + duration(b"\xff" * 8 + b"\x7f", b"\x10\xff\xff\xff\xff\x07"),
        "refused-health-cut": b"h" + field(1, b"readiness")[:-3],
        "refused-health-not-utf8": b"h" + field(1, b"\xff\xfe"),
        "refused-health-long": b"h" + field(3, b"x" * 100) * 41,
        "refused-orca-names": b"o" + field(2, b"") * 2049,
        "refused-orca-interval": b"o" + field(1, b"\x08"),
    }


# ---------------------------------------------------------------- trace context

def trace_parent_files():
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    return {
        "valid-sampled": parent,
        "valid-not-sampled": parent[:-1] + "0",
        "valid-state": parent + "\0congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
        "valid-broken-state": parent + "\0=,=x,\t,a=b=c,\u00e9=1",
        "refused-version": "ff" + parent[2:],
        "refused-zeros": f"00-{'0' * 32}-b7ad6b7169203331-01",
        "refused-short": parent[:-4],
        "refused-twice": f"{parent}\0\0{parent}",
        "refused-long": parent + "-" + "x" * 256,
        "refused-upper-case": parent.upper(),
    }


if __name__ == "__main__":
    write("config", config_files())
    write("safetensors", safetensors_files())
    write("shard_index", shard_index_files())
    write("hash_file", hash_file_files())
    write("tokenizer", tokenizer_files())
    write("request", request_files())
    write("open_request", open_request_files())
    write("trace_parent", trace_parent_files())
