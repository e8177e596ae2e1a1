"""Clients that send one stream after another to several servers, until they are stopped, and what became of the calls: our
own in C++, and gRPC's own in Python with nothing of ours but the service config."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import tools

BENCH = "client/bench/spotlight-bench"
SERVICE_CONFIG = pathlib.Path("client/service_config.json")
PROMPT_TOKENS = 16
NUM_STREAMS = 9  # at once, of each client


class Call:

    def __init__(self, got_output, error):
        self.got_output = got_output  # a message of the stream had come before it ended
        self.error = error  # "" where it ended well

    def __repr__(self):
        return f"{'after' if self.got_output else 'before'} its first message: {self.error or 'OK'}"


class Bench:
    """spotlight-bench. Use as a context manager; `calls` are there after it."""

    def __init__(self, target, output_tokens):
        self._folder = tempfile.TemporaryDirectory()
        self._result = pathlib.Path(self._folder.name) / "result.json"
        self._process = subprocess.Popen(
            [BENCH, "--server", target, "--connections", "1", "--max-concurrency", str(NUM_STREAMS), "--duration", "300",
             "--input-len", str(PROMPT_TOKENS), "--output-len", str(output_tokens), "--save-detailed",
             "--result-filename", self._result], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGINT)
        _, error = self._process.communicate(timeout=60)
        with self._folder:
            if not self._result.exists():
                raise AssertionError(error)
            result = json.loads(self._result.read_text())
        # What ran at the end was cancelled by the signal.
        self.calls = [Call(tokens > 0, error) for tokens, error in zip(result["output_lens"], result["errors"])
                      if not error.startswith("CANCELLED")]


def encoded_request(output_tokens):
    request = f'text: "Once upon a time" stopping {{ max_tokens: {output_tokens} ignore_eos: true }}'
    return subprocess.run(["protoc", "--encode=spotlight.v1.GenerateRequest", "proto/spotlight/v1/generation.proto"],
                          input=request.encode(), stdout=subprocess.PIPE, check=True).stdout


class Grpcio:
    """Threads of this process that share one channel. Use as a context manager."""

    def __init__(self, target, output_tokens):
        sys.path.insert(0, str(tools.FOLDER / "grpcio"))
        import grpc
        self._grpc = grpc
        self._request = encoded_request(output_tokens)
        self._channel = grpc.insecure_channel(target, options=[
            ("grpc.service_config", SERVICE_CONFIG.read_text()),
            ("grpc.per_rpc_retry_buffer_size", 64 << 20),
            ("grpc.dns_min_time_between_resolutions_ms", 2000),
        ])
        self._stream = self._channel.unary_stream("/spotlight.v1.Generation/GenerateStream")
        self._stopping = threading.Event()
        self.calls = []
        self._threads = [threading.Thread(target=self._run) for _ in range(NUM_STREAMS)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        while not self._stopping.is_set():
            messages, error = 0, ""
            try:
                for _ in self._stream(self._request, timeout=120):
                    messages += 1
            except self._grpc.RpcError as ended:
                error = f"{ended.code().name}: {ended.details()}"
            self.calls.append(Call(messages > 0, error))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()
