"""training/round_hash.py on the golden 8-bit hash file."""
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, "training")
import round_hash

GOLDEN = "tests/testdata/goldens/int8_hash.safetensors"
DEQUANTISED = "tests/testdata/goldens/int8_hash_dequantised.safetensors"


def run(*arguments):
    return subprocess.run([sys.executable, "training/round_hash.py", *arguments], stderr=subprocess.PIPE, text=True)


class RoundHashTest(unittest.TestCase):

    def setUp(self):
        self._temporary = tempfile.TemporaryDirectory()
        self.out = self._temporary.name + "/out.safetensors"

    def tearDown(self):
        self._temporary.cleanup()

    def assert_equal_files(self, path, expected_path):
        (tensors, metadata), (expected, expected_metadata) = round_hash.read(path), round_hash.read(expected_path)
        self.assertEqual(metadata, expected_metadata)
        self.assertEqual(sorted(tensors), sorted(expected))
        for name, (dtype, values) in expected.items():
            self.assertEqual(tensors[name][0], dtype, name)
            self.assertTrue((tensors[name][1] == values).all(), name)

    def test_bf16_is_what_the_golden_says(self):
        self.assertEqual(run(GOLDEN, self.out, "bf16").returncode, 0)
        self.assert_equal_files(self.out, DEQUANTISED)

    def test_int8_is_within_half_a_step_and_half_the_size(self):
        self.assertEqual(run(DEQUANTISED, self.out, "int8").returncode, 0)
        stored, plain = dict(round_hash.matrices(round_hash.read(self.out)[0])), round_hash.read(DEQUANTISED)[0]
        for name, values in stored.items():
            exact = round_hash.from_bf16(plain[name][1])
            step = abs(exact).max(axis=1, keepdims=True) / 127
            self.assertTrue((abs(values - exact) <= step * 0.5001).all(), name)
        self.assertEqual(len(stored), 6)

    def test_only_hash_files_are_taken(self):
        done = run("tests/testdata/tiny-llama/model-00001-of-00002.safetensors", self.out, "int8")
        self.assertEqual(done.returncode, 1)
        self.assertIn("is no hash file", done.stderr)
        self.assertEqual(run(GOLDEN, self.out, "int4").returncode, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
