"""A broken checkpoint makes the server refuse to start, with the file and the reason; nothing else."""
import json
import os
import shutil
import struct
import sys
import tempfile
import unittest

sys.path.insert(0, "tests/integration")
import programs


class BadCheckpointTest(unittest.TestCase):

    def setUp(self):
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = os.path.join(self._temporary.name, "model")
        shutil.copytree(programs.TINY_QWEN2, self.folder)
        for name in os.listdir(self.folder):
            os.chmod(os.path.join(self.folder, name), 0o644)

    def tearDown(self):
        self._temporary.cleanup()

    def expect_refusal(self, *words, flags=()):
        code, error = programs.refused(*flags, model=self.folder)
        self.assertEqual(code, 1, error)
        for word in words:
            self.assertIn(word, error)

    def change_config(self, **changes):
        path = self.folder + "/config.json"
        config = json.load(open(path))
        config.update(changes)
        json.dump(config, open(path, "w"))

    def test_missing_folder(self):
        shutil.rmtree(self.folder)
        self.expect_refusal(self.folder)

    def test_config_that_is_not_json(self):
        open(self.folder + "/config.json", "w").write("{ nope")
        self.expect_refusal("config.json")

    def test_unknown_architecture(self):
        self.change_config(architectures=["MambaForCausalLM"])
        self.expect_refusal("config.json", "MambaForCausalLM", "Qwen2ForCausalLM")

    def test_unsupported_rope(self):
        self.change_config(rope_scaling={"rope_type": "longrope", "factor": 4.0})
        self.expect_refusal("config.json", "longrope")

    def test_missing_tokenizer(self):
        os.remove(self.folder + "/tokenizer.json")
        self.expect_refusal("tokenizer.json")

    def test_tokenizer_that_is_not_json(self):
        open(self.folder + "/tokenizer.json", "w").write("[1,")
        self.expect_refusal("tokenizer.json")

    def test_missing_weights(self):
        os.remove(self.folder + "/model.safetensors")
        self.expect_refusal("model.safetensors")

    def test_truncated_weights(self):
        path = self.folder + "/model.safetensors"
        os.truncate(path, os.path.getsize(path) - 1)
        self.expect_refusal("model.safetensors")

    def test_lying_header(self):
        with open(self.folder + "/model.safetensors", "r+b") as file:
            file.write(struct.pack("<Q", 1 << 60))
        self.expect_refusal("model.safetensors")

    def test_wrong_shape(self):
        self.change_config(intermediate_size=128)
        self.expect_refusal("model.safetensors", "mlp.")

    def test_hash_file_of_another_model(self):
        other = programs.untrained_hash(self._temporary.name, programs.TINY_LLAMA)
        self.expect_refusal("hash.safetensors", flags=("--hash", other, "--allow-untrained-hash"))

    def test_hash_file_that_is_missing_or_truncated(self):
        self.expect_refusal("/nowhere/hash", flags=("--hash", "/nowhere/hash"))
        path = programs.untrained_hash(self._temporary.name, self.folder)
        os.truncate(path, 1000)
        self.expect_refusal("hash.safetensors", flags=("--hash", path, "--allow-untrained-hash"))

    def test_device_that_is_not_there(self):
        self.expect_refusal("cuda:63", flags=("--device", "cuda:63"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
