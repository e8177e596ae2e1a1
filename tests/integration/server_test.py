"""The walk of a request through the real programs, on the tiny model."""
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, "tests/integration")
import programs

GREEDY = ("--temperature", "0")
STORY = ("--prompt", "The lighthouse keeper climbed the stairs every evening, and one night he found")


def ids_of(messages):
    return [i for message in messages for i in message.get("token_ids", [])]


def text_of(messages):
    return "".join(message.get("text", "") for message in messages)


class ServerTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = programs.Server("--dtype", "fp32").wait_ready()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def test_streams_the_golden_text(self):
        with open("tests/testdata/goldens/greedy_tiny_llama.json") as file:
            golden = json.load(file)["cases"][0]
        messages = self.server.generate("--prompt", golden["text"], *GREEDY, "--max-tokens", "64", "--ignore-eos")
        self.assertEqual(ids_of(messages), golden["output_token_ids"])
        last = messages[-1]
        self.assertEqual(last["finish_reason"], "length")
        self.assertEqual(last["usage"]["prompt_tokens"], len(golden["prompt_token_ids"]))
        self.assertEqual(last["usage"]["completion_tokens"], 64)
        self.assertGreater(last["timings"]["time_to_first_token_seconds"], 0)

    def test_the_same_seed_gives_the_same_text_in_company(self):
        flags = (*STORY, "--temperature", "0.9", "--seed", "5", "--max-tokens", "40", "--ignore-eos")
        alone = text_of(self.server.generate(*flags))
        others = [subprocess.Popen([programs.CLIENT, "generate", "--server", self.server.grpc, "--prompt", "x " * n,
                                    "--max-tokens", "60", "--ignore-eos"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL) for n in (3, 40, 200, 500)]
        together = text_of(self.server.generate(*flags))
        for other in others:
            self.assertEqual(other.wait(), 0)
        self.assertEqual(alone, together)

    def test_a_prompt_is_computed_once_and_its_answer_stays_the_same(self):
        ids = ",".join(str(5 + i * 13 % 400) for i in range(400))
        flags = ("--token-ids", ids, *GREEDY, "--max-tokens", "20", "--ignore-eos", "--cache-salt", "computed once")
        queries, hits = (f"spotlight_prefix_cache_{what}_tokens_total" for what in ("queries", "hits"))
        before = {name: self.server.metric(name) for name in (queries, hits, "spotlight_cached_prompt_tokens_total")}
        cold, hit = (self.server.generate(*flags) for _ in range(2))
        other = self.server.generate(*flags[:-1], "another tenant")
        bypass = self.server.generate(*flags, "--bypass-prefix-cache")
        cached = [messages[-1]["usage"]["cached_prompt_tokens"] for messages in (cold, hit, other, bypass)]
        self.assertEqual(cached, [0, 384, 0, 0])
        for messages in (hit, other, bypass):
            self.assertEqual(ids_of(messages), ids_of(cold))
        self.assertEqual(self.server.metric(queries) - before[queries], 1200)
        self.assertEqual(self.server.metric(hits) - before[hits], 384)
        self.assertEqual(self.server.metric("spotlight_cached_prompt_tokens_total")
                         - before["spotlight_cached_prompt_tokens_total"], 384)
        self.assertEqual(self.server.metric("spotlight_kv_cache_usage_ratio"), 0)
        self.assertEqual(self.server.request_log()[-3]["cached_prompt_tokens"], 384)

    def test_each_sample_has_its_seed_which_gives_it_again(self):
        flags = (*STORY, "--temperature", "1", "--max-tokens", "15", "--ignore-eos")
        messages = self.server.generate(*flags, "--n", "3", "--seed", "7")
        texts, seeds = {}, {}
        for message in messages:
            index = message.get("index", 0)
            texts[index] = texts.get(index, "") + message["text"]
            if "finish_reason" in message:
                seeds[index] = message["seed"]
        self.assertEqual(sorted(seeds), [0, 1, 2])
        self.assertEqual(seeds[0], 7)
        self.assertEqual(len(set(texts.values())), 3)
        for index, seed in seeds.items():
            self.assertEqual(text_of(self.server.generate(*flags, "--seed", str(seed))), texts[index])
        self.assertEqual([("usage" in m) for m in messages], [False] * (len(messages) - 1) + [True])
        self.assertEqual(messages[-1]["usage"]["completion_tokens"], 45)
        done = self.server.client("generate", *flags, "--n", "3", "--seed", "7")
        self.assertEqual(done.stdout.rstrip("\n"),
                         "\n".join(f"--- sample {i}\n" + texts[i].rstrip("\n") for i in range(3)))
        self.assertIn("45 generated in 3 samples", done.stderr)

    def test_the_prompt_comes_back_truncated_and_scored_as_asked_for(self):
        whole = self.server.generate(*STORY, *GREEDY, "--max-tokens", "3", "--echo", "--prompt-logprobs", "1")
        infos = [message["prompt_info"] for message in whole if "prompt_info" in message]
        prompt = "".join(info["text"] for info in infos)
        prompt_ids = ids_of(infos)
        logprobs = sum((info["logprobs"] for info in infos), [])
        self.assertTrue(prompt.endswith(STORY[1]), prompt)
        self.assertEqual({info["prompt_tokens"] for info in infos}, {len(prompt_ids)})
        self.assertEqual([p["token_id"] for p in logprobs], prompt_ids[1:])
        for scored in logprobs:
            self.assertLessEqual(scored["logprob"], scored["top"][0]["logprob"])
        # What the model said of the prompt's last token is what it says of it as an answer.
        flags = ("--token-ids", ",".join(map(str, prompt_ids[:-1])), "--max-tokens", "1", "--logprobs", "1",
                 "--logit-bias", f"{prompt_ids[-1]}=100")
        answer = sum((message.get("logprobs", []) for message in self.server.generate(*flags)), [])[0]
        self.assertEqual(answer["token_id"], prompt_ids[-1])
        self.assertAlmostEqual(answer["logprob"], logprobs[-1]["logprob"], places=5)

        cut = self.server.generate(*STORY, "--max-tokens", "1", "--echo", "--truncate-prompt-tokens", "5")
        self.assertEqual(ids_of(m["prompt_info"] for m in cut if "prompt_info" in m), prompt_ids[-5:])
        self.assertEqual(cut[-1]["usage"]["prompt_tokens"], 5)
        text = self.server.client("generate", *STORY, *GREEDY, "--max-tokens", "3", "--echo").stdout
        self.assertEqual(text.rstrip("\n"), (prompt + text_of(whole)).rstrip("\n"))

    def test_refusals_name_the_field_and_exit_with_3(self):
        for flags, words in (
                (("--prompt", ""), "text: must not be empty"),
                (("--token-ids", "1,2,999999"), "token_ids"),
                ((*STORY, "--min-tokens", "9", "--max-tokens", "3"), "min_tokens"),
                ((*STORY, "--logit-bias", "999999=1"), "logit_bias"),
                ((*STORY, "--model", "another"), "another"),
                ((*STORY, *sum((("--stop", f"s{i}") for i in range(17)), ())), "stop"),
                ((*STORY, "--retrieval", "sparse"), "hash"),
                (("--token-ids", ",".join(["5"] * 9000)), "8192"),
        ):
            with self.subTest(words):
                done = self.server.client("generate", *flags)
                self.assertEqual(done.returncode, 3, done.stderr)
                self.assertIn(words, done.stderr)

    def test_a_client_that_goes_away_frees_its_pages(self):
        process = subprocess.Popen([programs.CLIENT, "generate", "--server", self.server.grpc, *STORY,
                                    "--max-tokens", "4000", "--ignore-eos", "--json"], stdout=subprocess.PIPE)
        process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        deadline = time.time() + 20
        while self.server.metric('spotlight_cancel_release_seconds_count{phase="decode"}') < 1 and time.time() < deadline:
            time.sleep(0.01)
        self.assertEqual(self.server.metric("spotlight_requests_running"), 0)
        self.assertEqual(self.server.metric("spotlight_kv_cache_usage_ratio"), 0)
        self.assertGreaterEqual(self.server.metric('spotlight_cancel_release_seconds_count{phase="decode"}'), 1)

    def test_chat_keeps_the_conversation_and_needs_no_terminal(self):
        def prompts_logged():
            return [record["prompt_tokens"] for record in self.server.request_log() if "prompt_tokens" in record]

        before = len(prompts_logged())
        done = self.server.client("chat", *GREEDY, "--max-tokens", "5", input="hello\nand then?\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.strip())
        deadline = time.time() + 20  # the log is written beside the answers
        while len(prompts_logged()) < before + 2 and time.time() < deadline:
            time.sleep(0.02)
        prompts = prompts_logged()[before:]
        self.assertGreater(prompts[1], prompts[0])

    def test_tokens_and_text_round_trip(self):
        text = "round trip: naïve 你好 🙂"
        ids = json.loads(self.server.client("tokenize", "--prompt", text, "--json").stdout)["token_ids"]
        back = self.server.client("detokenize", "--token-ids", ",".join(map(str, ids)), "--json")
        self.assertIn(text, json.loads(back.stdout)["text"])

    def test_abort_ends_a_running_request(self):
        process = subprocess.Popen([programs.CLIENT, "generate", "--server", self.server.grpc, *STORY, "--max-tokens",
                                    "8000", "--ignore-eos", "--json", "--request-id", "doomed"],
                                   stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        self.assertEqual(self.server.client("abort", "--request-id", "doomed").returncode, 0)
        process.stdout.read()
        self.assertEqual(process.wait(), 4)
        process.stdout.close()
        self.assertEqual(self.server.client("abort", "--request-id", "doomed").returncode, 3)

    def test_a_deadline_that_passes_is_not_a_length(self):
        done = self.server.client("generate", *STORY, "--max-tokens", "8000", "--ignore-eos", "--deadline", "0.3")
        self.assertEqual(done.returncode, 6, done.stderr)

    def test_metrics_health_and_info(self):
        self.assertIn("ok", self.server.get("/healthz").lower())
        self.server.get("/readyz")
        self.server.generate(*STORY, *GREEDY, "--max-tokens", "3")
        self.assertGreater(self.server.metric("spotlight_generation_tokens_total"), 0)
        info = self.server.client("models", "--json")
        self.assertEqual(info.returncode, 0, info.stderr)
        self.assertIn("tiny-llama", info.stdout)
        self.assertEqual(self.server.client("health").returncode, 0)


class RetrievalTest(unittest.TestCase):

    def test_an_untrained_hash_serves_sparse_only_when_allowed_and_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            path = programs.untrained_hash(folder)
            code, error = programs.refused("--hash", path)
            self.assertEqual(code, 1)
            self.assertIn("allow-untrained-hash", error)
            with programs.Server("--hash", path, "--allow-untrained-hash") as server:
                server.wait_ready()
                self.assertIn("meaningless", server.log())
                prompt = ("--token-ids", ",".join(str(5 + i % 400) for i in range(1500)))
                last = server.generate(*prompt, "--max-tokens", "40", "--ignore-eos", "--retrieval", "sparse")[-1]
                self.assertEqual(last["retrieval"]["sparse_steps"], 39)
                self.assertTrue(last["retrieval"]["untrained_hash"])
                # 64 selected, 4 sinks and 64 recent of about 1,520 tokens.
                self.assertAlmostEqual(last["retrieval"]["selected_ratio"], 132 / 1520, delta=0.005)
                self.assertLess(last["retrieval"]["kv_read_bytes"],
                                0.6 * last["retrieval"]["kv_dense_equivalent_bytes"])
                own = server.generate(*prompt, "--max-tokens", "40", "--ignore-eos", "--retrieval", "sparse",
                                      "--min-selected", "16", "--sink-tokens", "0", "--recent-tokens", "32", "--budget",
                                      "0.001")[-1]["retrieval"]
                self.assertAlmostEqual(own["selected_ratio"], 48 / 1520, delta=0.005)
                none = server.generate(*prompt, "--max-tokens", "2", "--no-retrieval-stats")[-1]
                self.assertNotIn("retrieval", none)
                dense = server.generate(*prompt, "--max-tokens", "8", "--retrieval", "dense")[-1]["retrieval"]
                self.assertEqual(dense.get("sparse_steps", 0), 0)
                self.assertGreater(server.metric('spotlight_retrieval_seconds_count{stage="score"}'), 0)


class LifecycleTest(unittest.TestCase):

    def test_sigterm_lets_running_streams_end(self):
        with programs.Server() as server:
            server.wait_ready()
            process = subprocess.Popen([programs.CLIENT, "generate", "--server", server.grpc, *STORY, "--max-tokens",
                                        "400", "--ignore-eos", "--json"], stdout=subprocess.PIPE, text=True)
            process.stdout.readline()
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            late = server.client("generate", *STORY, "--max-tokens", "1", "--connect-timeout", "1")
            self.assertEqual(late.returncode, 5, late.stderr)
            last = json.loads(process.stdout.read().splitlines()[-1])
            self.assertEqual(process.wait(), 0)
            self.assertEqual(last["usage"]["completion_tokens"], 400)
            self.assertEqual(server.process.wait(timeout=60), 0)

    def test_a_port_in_use_is_one_clear_error(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            for flag in ("--listen", "--http"):
                code, error = programs.refused(flag, address)
                self.assertEqual(code, 1)
                self.assertIn(address, error)

    def test_preempted_requests_give_the_same_tokens(self):
        prompts = [",".join(str(5 + (i * 37 + n) % 400) for i in range(200)) for n in range(4)]

        def flags(prompt):
            return ["generate", "--token-ids", prompt, "--max-tokens", "300", "--ignore-eos", "--temperature", "0.8",
                    "--seed", "3", "--json"]

        # Four sequences of 500 tokens in a cache of 1,024: they cannot all stay.
        with programs.Server("--dtype", "fp32", "--max-tokens-in-cache", "1024") as server:
            server.wait_ready()
            alone = [text_of(server.generate(*flags(prompt)[1:-1])) for prompt in prompts]
            running = [subprocess.Popen([programs.CLIENT, *flags(prompt), "--server", server.grpc],
                                        stdout=subprocess.PIPE, text=True) for prompt in prompts]
            together = [text_of(map(json.loads, process.communicate()[0].splitlines())) for process in running]
            self.assertGreater(server.metric("spotlight_preemptions_total"), 0)
            self.assertEqual(alone, together)
            self.assertEqual(server.metric("spotlight_kv_cache_usage_ratio"), 0)
            refused = server.client("generate", "--token-ids", ",".join(["5"] * 1100))
            self.assertEqual(refused.returncode, 3)
            self.assertIn("1024", refused.stderr)
            refused = server.client("generate", "--prompt", "one of very many words " * 400)
            self.assertEqual(refused.returncode, 3)
            self.assertIn("leaves no room for output in the KV cache of 1024 tokens", refused.stderr)
            self.assertTrue(server.metric_becomes('spotlight_requests_rejected_total{reason="kv_capacity"}', 2))
            self.assertEqual(server.metric('spotlight_requests_rejected_total{reason="invalid"}'), 0)

    def test_a_model_of_one_layer_is_served(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(programs.TINY_QWEN2 + "/config.json") as file:
                config = json.load(file)
            config["num_hidden_layers"] = 1
            with open(folder + "/config.json", "w") as file:
                json.dump(config, file)
            with programs.Server("--random-weights", "3", model=folder) as server:
                server.wait_ready()
                server.generate("--token-ids", "1,2,3", "--max-tokens", "2")
            config["head_dim"] = 96
            with open(folder + "/config.json", "w") as file:
                json.dump(config, file)
            code, error = programs.refused("--random-weights", "3", model=folder)
            self.assertEqual(code, 1)
            self.assertIn("96", error)

    def test_random_weights_need_only_a_config(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(programs.TINY_QWEN2 + "/config.json", folder)
            with programs.Server("--random-weights", "3", model=folder) as server:
                server.wait_ready()
                messages = server.generate("--token-ids", "1,2,3", *GREEDY, "--max-tokens", "8", "--ignore-eos")
                self.assertEqual(sum(len(m.get("token_ids", [])) for m in messages), 8)
                done = server.client("generate", *STORY)
                self.assertEqual(done.returncode, 3)
                self.assertIn("tokenizer", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
