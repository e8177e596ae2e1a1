#!/usr/bin/env python3
"""tools/gguf_to_hf.py gives back the tiny checkpoints that were written as GGUF files, and refuses what it cannot read.

Needs tools/requirements.txt: ~/.cache/spotlight/converter-*/bin/python tests/tools/gguf_to_hf_test.py
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTDATA = ROOT / "tests" / "testdata"
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools"))
from gguf_to_hf import BLOCK, ROPE_FACTORS, TOP, llama3_factors, llama3_scaling  # noqa: E402

GGUF_NAMES = {**{f".{hf}.": f".{gguf}." for gguf, hf in BLOCK.items()}, **{f"{hf}.": f"{gguf}." for gguf, hf in TOP.items()}}


def load_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def load_weights(folder):
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:8 + size])
        for name, t in header.items():
            if name != "__metadata__":
                begin, end = t["data_offsets"]
                weights[name] = np.frombuffer(raw, np.uint16, (end - begin) // 2, 8 + size + begin).reshape(t["shape"])
    return weights


def gguf_name(name):
    name = name.replace("model.layers.", "blk.")
    for hf, gguf in GGUF_NAMES.items():
        if hf in name:
            return name.replace(hf, gguf)
    raise KeyError(name)


def permute(weight, heads):  # what llama.cpp does to q and k of a Llama
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, folder, pre, **changes):
    config, tokenizer = load_json(folder / "config.json"), load_json(folder / "tokenizer.json")
    tokenizer_config = load_json(folder / "tokenizer_config.json")
    arch = changes.get("arch", config["model_type"])
    w = GGUFWriter(path, arch)
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_key_length(config["head_dim"])
    w.add_rope_dimension_count(changes.get("rotary", config["head_dim"]))
    w.add_context_length(config["max_position_embeddings"])
    w.add_rope_freq_base(config["rope_theta"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    added = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    vocab = {**tokenizer["model"]["vocab"], **added}
    tokens = sorted(vocab, key=vocab.get)
    w.add_tokenizer_model(changes.get("tokenizer", "gpt2"))
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types([3 if t in added else 1 for t in tokens])
    w.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]])
    w.add_eos_token_id(config["eos_token_id"][0])
    w.add_pad_token_id(config["pad_token_id"])
    if config["bos_token_id"] is not None:
        w.add_bos_token_id(config["bos_token_id"])
    w.add_chat_template(tokenizer_config["chat_template"])
    if "rope_scaling" in config:
        s = config["rope_scaling"]
        factors = llama3_factors(config["head_dim"], config["rope_theta"], s["factor"], 1.0, 4.0,
                                 s["original_max_position_embeddings"])
        w.add_tensor(ROPE_FACTORS, factors.astype(np.float32))
    if "factors" in changes:
        w.add_tensor(ROPE_FACTORS, changes["factors"].astype(np.float32))
    if "yarn" in changes:
        w.add_rope_scaling_type(RopeScalingType.YARN)
        w.add_rope_scaling_factor(changes["yarn"])
        w.add_rope_scaling_orig_ctx_len(2048)
    for name, bits in load_weights(folder).items():
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            bits = permute(bits, config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
        tensor = changes.get("rename", {}).get(gguf_name(name), gguf_name(name))
        if bits.ndim == 1:  # llama.cpp keeps vectors in fp32
            w.add_tensor(tensor, (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            w.add_tensor(tensor, np.ascontiguousarray(bits), raw_dtype=GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class GgufToHfTest(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.TemporaryDirectory()
        self.gguf, self.out = pathlib.Path(self.work.name, "model.gguf"), pathlib.Path(self.work.name, "out")

    def tearDown(self):
        self.work.cleanup()

    def convert(self):
        return subprocess.run([sys.executable, ROOT / "tools/gguf_to_hf.py", self.gguf, self.out], text=True, capture_output=True)

    def assert_converts_back(self, folder):
        done = self.convert()
        self.assertEqual(done.returncode, 0, done.stderr)
        before, after = load_weights(folder), load_weights(self.out)
        self.assertEqual(before.keys(), after.keys())
        for name in before:
            np.testing.assert_array_equal(before[name], after[name], name)
        want, got = load_json(folder / "config.json"), load_json(self.out / "config.json")
        self.assertEqual(got["eos_token_id"], want["eos_token_id"][0])
        self.assertEqual({k: v for k, v in got.items() if k not in ("eos_token_id", "rope_scaling")},
                         {k: v for k, v in want.items() if k not in ("eos_token_id", "rope_scaling")})
        self.assertEqual(load_json(self.out / "generation_config.json")["eos_token_id"], want["eos_token_id"])
        self.assertEqual(load_json(self.out / "tokenizer_config.json")["chat_template"],
                         load_json(folder / "tokenizer_config.json")["chat_template"])
        want, got = load_json(folder / "tokenizer.json"), load_json(self.out / "tokenizer.json")
        got["model"]["merges"] = [m.split(" ") for m in got["model"]["merges"]]
        self.assertEqual(got, want)

    def assert_refuses(self, reason):
        done = self.convert()
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn(reason, done.stderr)
        self.assertFalse(self.out.exists())
        self.assertEqual(list(pathlib.Path(self.work.name).glob("*.part")), [])

    def test_qwen2_comes_back_bit_for_bit(self):
        write_gguf(self.gguf, TESTDATA / "tiny-qwen2", "qwen2")
        self.assert_converts_back(TESTDATA / "tiny-qwen2")
        self.assertNotIn("rope_scaling", load_json(self.out / "config.json"))

    def test_llama3_comes_back_bit_for_bit(self):
        write_gguf(self.gguf, TESTDATA / "tiny-llama", "llama-bpe")
        self.assert_converts_back(TESTDATA / "tiny-llama")
        self.assertEqual(load_json(self.out / "config.json")["rope_scaling"],
                         load_json(TESTDATA / "tiny-llama" / "config.json")["rope_scaling"])

    def test_the_scaling_of_llama_3_1_and_3_2_is_recognised(self):
        for head_dim, factor in ((128, 8.0), (64, 32.0)):
            table = llama3_factors(head_dim, 500000.0, factor, 1.0, 4.0, 8192).astype(np.float32)
            self.assertEqual(llama3_scaling(table, head_dim, 500000.0), {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192})

    def test_yarn_scaling_is_kept(self):
        write_gguf(self.gguf, TESTDATA / "tiny-qwen2", "qwen2", yarn=4.0)
        self.assert_converts_back(TESTDATA / "tiny-qwen2")
        self.assertEqual(load_json(self.out / "config.json")["rope_scaling"],
                         {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048})

    def test_refusals_are_one_line_with_the_reason(self):
        for reason, pre, changes in [
                ("architecture 'gemma2' is not supported", "qwen2", {"arch": "gemma2"}),
                ("pre-tokenizer 'deepseek-llm' is not supported", "deepseek-llm", {}),
                ("tokenizer 'llama' is not supported", "qwen2", {"tokenizer": "llama"}),
                ("partial rotation is not supported", "qwen2", {"rotary": 32}),
                ("rope_freqs.weight is not a llama3 RoPE scaling", "qwen2", {"factors": np.linspace(1, 9, 32)}),
                ("tensor 'blk.0.ffn_gate_inp.weight' has no place", "qwen2",
                 {"rename": {"blk.0.ffn_gate.weight": "blk.0.ffn_gate_inp.weight"}})]:
            with self.subTest(reason):
                write_gguf(self.gguf, TESTDATA / "tiny-qwen2", pre, **changes)
                self.assert_refuses(reason)

    def test_files_that_are_not_gguf_are_refused(self):
        self.assert_refuses("no such file")
        write_gguf(self.gguf, TESTDATA / "tiny-qwen2", "qwen2")
        whole = self.gguf.read_bytes()
        for content in (b"", b"GGUF", b"nothing of the kind" * 100, whole[:200], whole[:20000], whole[:-100000]):
            with self.subTest(len(content)):
                self.gguf.write_bytes(content)
                self.assert_refuses("not a readable GGUF file")

    def test_an_existing_folder_is_left_alone(self):
        write_gguf(self.gguf, TESTDATA / "tiny-qwen2", "qwen2")
        self.out.mkdir()
        done = self.convert()
        self.assertEqual((done.returncode, done.stderr), (1, f"{self.out}: exists already\n"))


if __name__ == "__main__":
    unittest.main()
