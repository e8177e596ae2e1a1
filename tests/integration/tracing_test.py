"""Traces and profiles of the real server on the tiny model: spans at a collector, the engine's steps as a Chrome trace."""
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, "tests/integration")
import programs

COLLECTOR = "tests/testing/fake_collector_main"
GREEDY = ("--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "24", "--ignore-eos")
ADMIN, TEAM = "admin-0123456789abcdef", "team-0123456789abcdef"


class Collector:
    """A process that takes OTLP and tells what came."""

    def __enter__(self):
        self.process = subprocess.Popen([COLLECTOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()
        self.address = self.endpoint.split("/")[2]
        return self

    def resources(self):
        """The resource and the spans of the next export."""
        return json.loads(self.process.stdout.readline())["resourceSpans"]

    def span(self):
        (resource,) = self.resources()
        (scope,) = resource["scopeSpans"]
        (span,) = scope["spans"]
        return resource, span

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


def attributes(entity):
    values = {}
    for attribute in entity["attributes"]:
        ((kind, value),) = attribute["value"].items()
        if kind == "arrayValue":
            value = [each["stringValue"] for each in value["values"]]
        values[attribute["key"]] = int(value) if kind == "intValue" else value
    return values


def fast(**variables):
    """An environment in which spans go out at once."""
    return dict({key: value for key, value in os.environ.items() if not key.startswith("OTEL_")},
                OTEL_BSP_SCHEDULE_DELAY="50", **variables)


class TracingTest(unittest.TestCase):

    def test_a_request_is_a_span(self):
        with Collector() as collector, programs.Server("--otlp-endpoint", collector.address,
                                                       environment=fast(OTEL_SERVICE_NAME="story")) as server:
            server.wait_ready()
            before = time.time_ns()
            server.generate(*GREEDY)
            resource, span = collector.span()
            values = attributes(span)
            self.assertEqual(attributes(resource["resource"])["service.name"], "story")
            self.assertEqual(span["name"], "spotlight.v1.Generation/GenerateStream")
            self.assertEqual(span["kind"], "SPAN_KIND_SERVER")
            self.assertNotIn("parentSpanId", span)
            self.assertEqual(span.get("status", {}), {})
            self.assertEqual(values["rpc.system.name"], "grpc")
            self.assertEqual(values["rpc.method"], span["name"])
            self.assertEqual(values["rpc.response.status_code"], "OK")
            self.assertEqual(values["gen_ai.request.model"], "tiny-llama")
            self.assertEqual(values["gen_ai.usage.output_tokens"], 24)
            self.assertGreater(values["gen_ai.usage.input_tokens"], 0)
            self.assertEqual(values["gen_ai.usage.cache_read.input_tokens"], 0)
            self.assertEqual(values["gen_ai.response.finish_reasons"], ["length"])
            self.assertEqual([event["name"] for event in span["events"]], ["queue", "prefill", "first_token", "end"])
            times = [int(event["timeUnixNano"]) for event in span["events"]]
            times = [int(span["startTimeUnixNano"]), *times, int(span["endTimeUnixNano"])]
            self.assertEqual(times, sorted(times))
            self.assertTrue(before < times[0] and times[-1] < time.time_ns(), times)
            (line,) = [line for line in server.request_log() if line["method"] == "GenerateStream"]
            self.assertEqual(line["trace_id"], base64.b64decode(span["traceId"]).hex())
            self.assertEqual(line["request_id"], values["gen_ai.response.id"])

            refused = server.client("generate", "--prompt", "x", "--max-tokens", "1", "--model", "another")
            self.assertEqual(refused.returncode, 3)
            _, span = collector.span()
            values = attributes(span)
            self.assertEqual(values["rpc.response.status_code"], "NOT_FOUND")
            self.assertNotIn("events", span)
            self.assertEqual(span.get("status", {}), {})  # the client's mistake is no failure of the server
            self.assertEqual(server.metric('spotlight_trace_spans_total{outcome="exported"}'), 2)

    def test_the_last_spans_are_sent_at_the_stop(self):
        with Collector() as collector, programs.Server(
                environment=dict(fast(), OTEL_BSP_SCHEDULE_DELAY="3600000",
                                 OTEL_EXPORTER_OTLP_ENDPOINT="http://" + collector.address)) as server:
            server.wait_ready().generate(*GREEDY)
            self.assertEqual(server.stop(), 0)
            _, span = collector.span()
            self.assertEqual(attributes(span)["gen_ai.usage.output_tokens"], 24)

    def test_a_collector_that_is_down_costs_spans_and_nothing_else(self):
        with programs.Server("--otlp-endpoint", "127.0.0.1:1", environment=fast()) as server:
            server.wait_ready()
            for _ in range(2):
                server.generate(*GREEDY)
            deadline = time.time() + 20
            while server.metric('spotlight_trace_spans_total{outcome="failed"}') < 2 and time.time() < deadline:
                time.sleep(0.05)
            self.assertEqual(server.metric('spotlight_trace_spans_total{outcome="failed"}'), 2)
            begin = time.time()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.time() - begin, 10)
            self.assertEqual(server.log().count("which are lost"), 1, server.log())

    def test_bad_endpoints_are_refused(self):
        code, error = programs.refused("--otlp-endpoint", "collector")
        self.assertEqual(code, 2)
        self.assertIn("--otlp-endpoint: must be HOST:PORT or http[s]://HOST[:PORT][/PATH], got \"collector\"", error)
        code, error = programs.refused("--trace-sample-ratio", "2")
        self.assertEqual((code, "--trace-sample-ratio: must be in [0, 1], got 2" in error), (2, True), error)


class ProfileTest(unittest.TestCase):

    def get(self, query="", token=None):
        """(HTTP status, body)"""
        request = urllib.request.Request(self.server.http + "/debug/profile" + query)
        if token:
            request.add_header("Authorization", "Bearer " + token)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def test_steps_as_a_chrome_trace(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tokens.json")
            with open(path, "w") as file:
                json.dump({"tokens": [{"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(),
                                       "scopes": [scope]} for name, token, scope in
                                      (("boss", ADMIN, "admin"), ("team", TEAM, "generate"))]}, file)
            with programs.Server("--token-file", path) as self.server:
                self.server.wait_ready()
                self.assertEqual(self.get()[0], 401)
                self.assertEqual(self.get(token="wrong")[0], 401)
                self.assertEqual(self.get(token=TEAM)[0], 403)
                status, body = self.get("?steps=many", ADMIN)
                self.assertEqual((status, body), (400, "steps: must be a whole number of 1 to 1000, once, got \"many\"\n"))
                answers = []
                profile = threading.Thread(target=lambda: answers.append(self.get("?steps=5&seconds=60", ADMIN)))
                profile.start()
                while not answers:
                    self.server.generate(*GREEDY, env=dict(os.environ, SPOTLIGHT_TOKEN=TEAM))
                profile.join()
                status, body = answers[0]
                self.assertEqual(status, 200, body)
                names = [event.get("name", "") for event in json.loads(body)["traceEvents"]]
                self.assertTrue(any(name.startswith("aten::") for name in names), sorted(set(names)))
                self.assertEqual(names.count("step"), 5)
                self.assertTrue(any(name == "spotlight::dense_decode" for name in names), sorted(set(names)))
                callers = {(line["caller"], line["code"]) for line in self.server.request_log()
                           if line["method"] == "/debug/profile"}
                self.assertIn(("boss", "OK"), callers)
                self.assertIn(("team", "PERMISSION_DENIED"), callers)
                self.assertEqual(self.server.stop(), 0)


if __name__ == "__main__":
    unittest.main()
