"""Times the public Spotlight kernels: python3 peer_benchmark.py --peer=DIR --contexts=131072,1048576

DIR is a checkout of github.com/wenhaoli-xmu/spotlight. One decode step of one layer of Qwen2.5-7B's shape, as the
checkout's own cache does it: the hash of the 28 query heads (two residual layers of 128 x 128, then packbits), the search
(attn_k4_q28), top-k with the gather of K and V under torch.compile, and attention to what was gathered (the quicker of
cuDNN's and flash). Encoding the new key is left out, in their favour. Timed as the C++ program times: cold L2, a
spinning kernel that hides the host, medians. There is no CUDA graph: these kernels launch on the default stream, which
cannot be captured. Prints one line of JSON last.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.cpp_extension import load

KV_HEADS, GROUP, DIM, WORDS, RATIO = 4, 7, 128, 4, 0.02


def build(name, folder, build_folder):
    path = pathlib.Path(build_folder) / name
    path.mkdir(parents=True, exist_ok=True)
    source = pathlib.Path(folder) / "spotlight/kernel" / (name + ".cu")
    return load(name, [str(source)], build_directory=str(path), extra_cuda_cflags=["-O3"])


def commit_of(folder):
    file = pathlib.Path(folder) / "COMMIT"
    if file.exists():
        return file.read_text().strip()
    return subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


class Timer:
    def __init__(self, samples):
        self.samples = samples
        self.flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
        self.clean = torch.zeros(32 << 20, dtype=torch.int64, device="cuda")
        self.spin = 400_000  # cycles

    def sample(self, run):
        while True:
            self.flush.zero_()
            self.clean.sum()  # the L2's lines need not go back to memory within the sample
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(self.spin)
            begin.record()
            run()
            end.record()
            hidden = not begin.query()
            torch.cuda.synchronize()
            if hidden:
                return begin.elapsed_time(end) * 1e3
            self.spin *= 2
            assert self.spin < 100_000_000, "the host waits for the device while it enqueues"

    def median(self, run):
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        return statistics.median(self.sample(run) for _ in range(self.samples))


def select(scores, keys, values, budget):
    index = scores.topk(k=budget, dim=1, sorted=False).indices.unsqueeze(-1).expand(-1, -1, -1, DIM)
    return torch.gather(keys, 1, index), torch.gather(values, 1, index)


compiled_select = torch.compile(select)


def measure(context, timer, attn_k4_q28, packbits):
    heads, bf16 = KV_HEADS * GROUP, dict(device="cuda", dtype=torch.bfloat16)
    keys, values = (torch.randn(1, context, KV_HEADS, DIM, **bf16) for _ in range(2))
    query = torch.randn(1, 1, heads, DIM, **bf16)
    codes = torch.randint(-2**31, 2**31 - 1, (1, context, KV_HEADS, WORDS), device="cuda", dtype=torch.int32)
    codes = codes.view(torch.uint32)
    weights = [torch.randn(heads, DIM, DIM, **bf16) * DIM**-0.5 for _ in range(2)]
    biases = [torch.zeros(heads, 1, DIM, **bf16) for _ in range(2)]
    budget = int(context * RATIO)

    def encode():
        x = query.view(heads, 1, DIM)
        x = F.silu(torch.baddbmm(biases[0], x, weights[0])) + x
        x = torch.baddbmm(biases[1], x, weights[1]) + x
        return packbits(x.view(1, 1, heads, DIM))

    def attend(k, v):
        return F.scaled_dot_product_attention(query.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), enable_gqa=True)

    code = encode()
    scores = attn_k4_q28(code, codes)
    stages = {"hash": timer.median(encode), "search": timer.median(lambda: attn_k4_q28(code, codes))}
    selects = {form: timer.median(lambda: form(scores, keys, values, budget)) for form in (select, compiled_select)}
    best_select = min(selects, key=selects.get)
    stages["top-k and gather"] = selects[best_select]
    gathered = best_select(scores, keys, values, budget)
    attentions = {}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend):
            attentions[backend] = timer.median(lambda: attend(*gathered))
    backend = min(attentions, key=attentions.get)
    stages["attention"] = attentions[backend]

    def step():
        return attend(*best_select(attn_k4_q28(encode(), codes), keys, values, budget))

    with sdpa_kernel(backend):
        total = timer.median(step)
    return dict(context=context, us=total, stages={stage: round(us, 1) for stage, us in stages.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True)
    parser.add_argument("--contexts", default="131072,1048576")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--build_folder", default=os.path.join(tempfile.gettempdir(), "spotlight_peer_%d" % os.getuid()))
    parser.add_argument("--build_only", action="store_true")
    args = parser.parse_args()
    os.environ["TORCH_CUDA_ARCH_LIST"] = "%d.%d" % torch.cuda.get_device_capability()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        names = ("attn_k4_q28", "packbits")
        modules = list(pool.map(lambda name: build(name, args.peer, args.build_folder), names))
    if args.build_only:
        return
    timer = Timer(args.samples)
    contexts = [int(context) for context in args.contexts.split(",") if context]
    rows = [measure(context, timer, modules[0].attn_k4_q28, modules[1].packbits) for context in contexts]
    print(json.dumps(dict(commit=commit_of(args.peer), rows=rows)))


if __name__ == "__main__":
    main()
