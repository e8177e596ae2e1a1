#!/usr/bin/env bash
# Runs the kernels' GPU tests: all of cuda_test (sm_90a and sm_80 code) and of cuda_test_compute80 (PTX alone), then a
# quick part of both under compute-sanitizer. Ends in a table; exits 1 when anything failed, or ran longer than LIMIT_S.
# usage: run_on_gpu.sh [RUNNER]    RUNNER PROGRAM ARGUMENTS runs a program of a bundle (default: bundle/run)
# GTEST_FILTER narrows the full runs; SANITIZE=0 leaves compute-sanitizer out; SHARDS (4) processes share a program's
# tests; LOGS=FOLDER keeps the outputs; SLOWEST=N lists that many tests by their time.
set -uo pipefail
runner=${1:-bundle/run}
shards=${SHARDS:-4}
limit=${LIMIT_S:-300}
logs=${LOGS:-$(mktemp -d)}
[ -n "${LOGS:-}" ] || trap 'rm -rf "$logs"' EXIT
mkdir -p "$logs"

# A few shapes of every operation: each code width, dtype and head size, eager and in a graph; overlapped chains.
# racecheck, many times slower, gets fewer.
fewer='Words/SparseDecodeShapeTest.*/2:Words/SparseDecodeShapeTest.*/7:Types/SparseDecodeShapeTest.*/27'
fewer+=':Shapes/DenseDecodeShapeTest.*/35:Shapes/DenseDecodeShapeTest.*/7'
fewer+=':Shapes/EncodeAndAppendShapeTest.*/15:Shapes/EncodeAndAppendShapeTest.*/18:Words/EncodeAndAppendShapeTest.*/1'
quick=$fewer:'Words/SparseDecodeShapeTest.*/?:Types/SparseDecodeShapeTest.*/13:Batches/SparseDecodeBatchTest.*/0'
quick+=':SparseDecodeTest.ReadsPagesThatRowsShare:SparseDecodeTest.DropsSelected*:SparseSelectionTest.FindsWinners*'
quick+=':Steps/CudaChainTest.*/1:Steps/CudaChainTest.*/6:Steps/CudaChainTest.*/20:CudaFarPagesTest.*'
quick+=':Shapes/DenseDecodeShapeTest.*/3?:Shapes/EncodeAndAppendShapeTest.*/1?:Words/EncodeAndAppendShapeTest.*'
quick+=':*Quality*:Shapes/PointwiseTest.*/5'
quick+=':Shapes/SparseDecodeE4m3Test.*/1:Shapes/DenseDecodeE4m3Test.*/23:Shapes/EncodeAndAppendE4m3Test.*/21'

start() { # name, command ...: in the background, its output and exit status in $logs
  local name=$1
  shift
  (
    begin=$(date +%s.%N)
    timeout -k 2 "$limit" "$@" >"$logs/$name.log" 2>&1
    echo "$? $(date +%s.%N) $begin" >"$logs/$name.status"
  ) &
}

failed=0
table=$(printf '%-32s %6s %6s %8s  %s' program passed failed seconds result)
sum() { awk '{s += $1} END {print s + 0}'; }
judge() { # name, its outputs ...: adds a row to the table, and shows what went wrong
  local name=$1
  shift
  local passed broken status seconds result=ok
  passed=$(cat "$@" | grep -cE '^\[       OK \] .*ms\)')
  broken=$(cat "$@" | grep -cE '^\[  FAILED  \] .*ms\)')
  status=$(cat "${@/%.log/.status}" | awk '{if ($1 > worst) worst = $1} END {print worst + 0}')
  seconds=$(cat "${@/%.log/.status}" | awk '{if ($2 - $3 > worst) worst = $2 - $3} END {printf "%.1f", worst}')
  # A run that finished no test has judged nothing.
  if [ "$status" != 0 ] || [ "$passed" = 0 ]; then
    result="FAILED (exit $status)"
    [ "$status" != 124 ] || result="FAILED (longer than $limit s)"
    failed=1
    echo "== $name"
    cat "$@" | grep -E -A12 ': Failure$|^========= (Inv|Err|Race|Barrier|Warn|Program)|^terminate|rror:' | head -60
    cat "$@" | grep -E '^\[  FAILED  \] .*ms\)' | sort -u | head -20
    tail -qn 2 "$@"
  fi
  table+=$'\n'$(printf '%-32s %6s %6s %8s  %s' "$name" "$passed" "$broken" "$seconds" "$result")
}

full() { # program
  local shard
  for ((shard = 0; shard < shards; ++shard)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard start "$1-$shard" "$runner" "$1"
  done
}

sanitized() { # program tool: arrays are then allocations of their own, so that an access past one is seen
  local filter=$quick options=(--tool "$2" --target-processes all --error-exitcode 9)
  [ "$2" != memcheck ] || options+=(--padding 256)
  [ "$2" != racecheck ] || filter=$fewer
  SPOTLIGHT_SEPARATE_ALLOCATIONS=1 start "$1-$2" compute-sanitizer "${options[@]}" \
    "$runner" "$1" --gtest_filter="$filter"
}

tools=(memcheck racecheck synccheck)
[ "${SANITIZE:-1}" != 0 ] || tools=()
# Few at a time: processes share the GPU by time slices, and tests wait for it often.
programs=(cuda_test cuda_test_compute80)
for program in "${programs[@]}"; do
  full "$program"
  wait
  judge "$program" "$logs/$program"-[0-9]*.log
done
for tool in "${tools[@]}"; do
  for program in "${programs[@]}"; do sanitized "$program" "$tool"; done
  wait
  for program in "${programs[@]}"; do judge "$program-$tool" "$logs/$program-$tool.log"; done
done
if [ -n "${SLOWEST:-}" ]; then
  cd "$logs" && grep -oE '^\[ .*\] [A-Z].*ms\)' ./*.log | sed -E 's/, where .*\(([0-9]+ ms)/ (\1/' |
    awk -F'[()]' '{print $(NF - 1) + 0, $0}' | sort -rn | head -n "$SLOWEST" | cut -d' ' -f2- | cut -c1-150
fi
echo "$table"
exit $failed
