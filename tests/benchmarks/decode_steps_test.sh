#!/usr/bin/env bash
# Both ways to fill the cache, and everything that a server has on: decode_steps measures what it was asked to, its
# anchor has the same shapes by default, and report.py joins the figures.
set -euo pipefail
export OMP_NUM_THREADS=1
model=tests/testdata/tiny-llama
hash=$TEST_TMPDIR/hash.safetensors
engine/model/make_untrained_hash --model $model --random-weights 1 --out "$hash" > /dev/null

steps() {  # NAME FLAG...
  benchmarks/engine/decode_steps --model=$model --hash="$hash" --device=cpu --steps=20 --json="$TEST_TMPDIR/$1.json" \
    --commit=none --shapes=1x512,2x384 "${@:2}"
}
steps random --quality_sample_every=0
steps prefill --fill_cache=prefill
steps serving --serving_defaults --shapes=2x512 --temperature=0.7 --top_p=0.8 --modes=sparse

fails() {  # FLAG: refused, and the error names it
  if message=$(steps refused "$1" 2>&1); then exit 1; fi
  flag=${1%%=*}
  [[ $message == *"decode_steps: $flag: "* ]] || { echo "$1: $message"; exit 1; }
}
fails --fill_cache=zeros
fails --modes=sparse,all
fails --shapes=1x20
fails --hash=

echo '{"device": "cpu", "versions": {}, "rows": [{"batch": 1, "context": 512, "ms": 2.0},
  {"batch": 2, "context": 384, "ms": 3.0}, {"batch": 2, "context": 512, "ms": 4.0}]}' > "$TEST_TMPDIR/anchor.json"
echo '{"device": "cpu", "versions": {"transformers": "5"}, "commit": "abc",
  "rows": [{"batch": 1, "context": 512, "transformers_ms": 50.0}]}' > "$TEST_TMPDIR/transformers.json"
python3 benchmarks/engine/report.py "$TEST_TMPDIR/random.json" "$TEST_TMPDIR/anchor.json" "$TEST_TMPDIR/report.json" \
  --serving "$TEST_TMPDIR/serving.json" --transformers "$TEST_TMPDIR/transformers.json"

python3 - "$TEST_TMPDIR" <<'PYTHON'
import json, re, sys

folder = sys.argv[1]


def load(name):
    with open(f"{folder}/{name}.json", encoding="utf-8") as file:
        return json.load(file)


for name in ("random", "prefill"):
    report = load(name)
    assert report["fill_cache"] == name and not report["prefix_cache"] and report["quality_sample_every"] == 0, report
    assert [(row["batch"], row["context"]) for row in report["rows"]] == [(1, 512), (2, 384)], report
    for row in report["rows"]:
        assert row["op"] == "decode_step" and row["hash_bits"] == 128, row
        for mode in ("", "dense_"):
            assert 0 < row[mode + "ms"] <= row[mode + "p99_ms"], row
            assert 0 < row[mode + "host_ms"] and row[mode + "mean_ms"] > 0, row
            assert row[mode + "steps"] >= 20 and row[mode + "graph_share"] == 0, row

serving = load("serving")
assert serving["prefix_cache"] and serving["quality_sample_every"] == 128 and serving["temperature"] == 0.7, serving
(row,) = serving["rows"]
assert row["op"] == "decode_step_serving" and row["ms"] > 0 and "dense_ms" not in row, row

joined = load("report")["rows"]
assert [row["op"] for row in joined] == ["decode_step", "decode_step", "decode_step_serving"], joined
assert [row["anchor_ms"] for row in joined] == [2.0, 3.0, 4.0], joined
assert joined[0]["transformers_run"] == "commit abc, cpu" and "transformers_run" not in joined[1], joined
assert joined[2]["switched_on"] == {"prefix_cache": True, "quality_sample_every": 128, "temperature": 0.7, "top_p": 0.8}

shapes = []
for path in ("decode_steps.cc", "dense_anchor.py"):
    with open(f"benchmarks/engine/{path}", encoding="utf-8") as file:
        shapes.append(re.search(r'shapes"?,[^"]*"((?:\d+x\d+,)+\d+x\d+)"', file.read()).group(1))
assert shapes[0] == shapes[1], shapes
PYTHON
