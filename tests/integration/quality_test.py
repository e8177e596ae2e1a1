"""Sampled retrieval quality and the guardrail, seen from outside: answers, metrics, logs. An untrained hash finds little."""
import sys
import tempfile
import unittest

sys.path.insert(0, "tests/integration")
import programs


class QualityTest(unittest.TestCase):
    PROMPT = ("--token-ids", ",".join(str(5 + i % 400) for i in range(1500)), "--ignore-eos", "--retrieval", "sparse",
              "--temperature", "0")

    def test_sampled_quality_is_told_and_changes_no_token(self):
        with tempfile.TemporaryDirectory() as folder:
            flags = ("--hash", programs.untrained_hash(folder), "--allow-untrained-hash", "--dtype", "fp32")
            tokens = []
            for every in (0, 1):
                with programs.Server(*flags, "--quality-sample-every", str(every)) as server:
                    server.wait_ready()
                    messages = server.generate(*self.PROMPT, "--max-tokens", "20")
                    tokens.append([i for message in messages for i in message.get("token_ids", [])])
                    retrieval = messages[-1]["retrieval"]
                    samples = server.metric('spotlight_retrieval_samples_total{outcome="good"}')
                    masses = server.metric("spotlight_retrieval_attention_mass_ratio_count")
                    if every == 0:
                        self.assertIn("not measured", server.log())
                        self.assertNotIn("quality", retrieval)
                        self.assertEqual((samples, masses), (0, 0))
                        continue
                    self.assertIn("guardrail off", server.log())
                    self.assertEqual((samples, masses), (19, 19))
                    quality = retrieval["quality"]
                    self.assertEqual(quality["samples"], 19)
                    self.assertNotIn("fallback", retrieval)
                    for name in ("recall", "iou", "attention_mass", "min_attention_mass"):
                        self.assertGreater(quality[name], 0)
                        self.assertLess(quality[name], 1)
                    self.assertEqual(server.request_log()[-1]["attention_mass"], quality["attention_mass"])
            self.assertEqual(tokens[0], tokens[1])

    def test_the_guardrail_ends_sparse_retrieval_and_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            with programs.Server("--hash", programs.untrained_hash(folder), "--allow-untrained-hash",
                                 "--quality-sample-every", "2", "--quality-floor", "1", "--quality-low-samples",
                                 "3") as server:
                server.wait_ready()
                self.assertIn("attention mass under 1", server.log())
                retrieval = server.generate(*self.PROMPT, "--max-tokens", "20")[-1]["retrieval"]
                self.assertEqual(retrieval["sparse_steps"], 6)
                self.assertEqual(retrieval["dense_steps"], 13)
                self.assertEqual(retrieval["dense_reason"], "guardrail")
                self.assertEqual(retrieval["fallback"], {"count": 1, "after_tokens": 7})
                self.assertEqual(server.metric('spotlight_dense_steps_total{reason="guardrail"}'), 13)
                self.assertEqual(server.metric('spotlight_retrieval_fallbacks_total{action="dense"}'), 1)
                self.assertEqual(server.metric('spotlight_retrieval_samples_total{outcome="low"}'), 3)
                words = server.client("generate", *self.PROMPT, "--max-tokens", "20").stderr
                self.assertIn("6 sparse + 13 dense steps (quality guardrail)", words)
                self.assertIn("guardrail after 7 tokens: dense", words)

    def test_larger_budgets_come_first_where_the_server_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            with programs.Server("--hash", programs.untrained_hash(folder), "--allow-untrained-hash",
                                 "--quality-sample-every", "1", "--quality-floor", "1", "--quality-low-samples", "4",
                                 "--quality-fallback", "budget") as server:
                server.wait_ready()
                first = server.generate(*self.PROMPT, "--max-tokens", "8")[-1]["retrieval"]
                self.assertEqual(first["fallback"], {"count": 1, "after_tokens": 5, "budget_ratio": 0.08})
                self.assertEqual(first.get("dense_steps", 0), 0)
                last = server.generate(*self.PROMPT, "--max-tokens", "20")[-1]["retrieval"]
                self.assertEqual(last["fallback"], {"count": 3, "after_tokens": 5})
                self.assertEqual(last["dense_steps"], 7)


if __name__ == "__main__":
    unittest.main(verbosity=2)
