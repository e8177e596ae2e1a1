#!/usr/bin/env bash
# usage: kernels_test.sh cpu|gpu
set -euo pipefail
json=$TEST_TMPDIR/kernels.json
if [ "$1" = cpu ]; then
  ops=cpu_score
else
  ops=cpu_score,encode,sparse,attention,dense,skeleton,prefill,shapes,clustered
fi
benchmarks/kernels/kernels --quick --ops="$ops" --json="$json" --commit=none
python3 - "$1" "$json" <<'PYTHON'
import json, sys

place, path = sys.argv[1:]
with open(path) as file:
    report = json.load(file)
scored = {(row["hash_words"], row["threads"]) for row in report["cpu_scoring"]}
assert {(words, 1) for words in (1, 2, 4, 8)} <= scored, scored
assert all(row["ratio"] > 0 for row in report["cpu_scoring"])
if place == "gpu":
    assert report["device"] and report["read_gb_per_s"] > 0 and report["empty_launch_us"] > 0
    ops = {}
    for row in report["rows"]:
        assert row["us"] > 0 and row["graph_us"] > 0, row
        ops.setdefault(row["op"], []).append(row)
    skeletons = {op for op in ops if op.startswith("skeleton")}
    assert {"skeleton", "skeleton: launch", "skeleton: codes", "skeleton: tokens", "skeleton_attention"} <= skeletons, skeletons
    # What bounds sparse attention takes less than it.
    for bound, row in zip(ops["skeleton_attention"], (row for row in ops["sparse_attention"] if not row["prefilter"])):
        assert (bound["batch"], bound["context"]) == (row["batch"], row["context"])
        assert bound["us"] < row["us"], (bound, row)
    assert set(ops) - skeletons == {
        "encode_and_append", "encode_and_append_prefill", "sparse_decode", "sparse_attention", "dense_decode"}
    for row in ops["sparse_decode"] + ops["sparse_attention"] + ops["dense_decode"]:
        assert row["anchor_us"] > 0 and row["anchor_graph_us"] > 0 and row["floor_us"] > 0, row
    assert {row["prefilter"] for row in ops["sparse_attention"]} == {False, True}
    assert {row["clustered"] for row in ops["sparse_attention"]} == {False, True}
    assert len({row["shape"] for row in ops["sparse_attention"]}) == 5
else:
    assert report["rows"] == []
PYTHON
