#!/usr/bin/env bash
# Runs the tests of a GPU bundle one after another, then a quick part of the kernels' tests under compute-sanitizer.
# Prints what failed, then a table. Exits 1 when anything failed, ran longer than its limit, or judged nothing.
# usage: run_tests [NAME ...]     (default: all in tests.txt)
# GTEST_FILTER or TESTBRIDGE_TEST_ONLY narrows the tests; LIMIT_S (300) is for each program; SHARDS (4) processes share
# the tests of cuda_test*; SANITIZE=0 leaves compute-sanitizer out; LOGS=FOLDER keeps the outputs; SLOWEST=N lists that
# many tests by their time.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")" || exit 2
shards=${SHARDS:-4}
limit=${LIMIT_S:-300}
work=$(mktemp -d)
logs=${LOGS:-$work/logs}
mkdir -p "$logs" && logs=$(cd "$logs" && pwd) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 130' INT TERM

fail() { echo "run_tests: $*" >&2; exit 2; }
declare -A kinds
names=()
while read -r kind name; do
  kinds[$name]=$kind
  names+=("$name")
done <tests.txt
[ $# -eq 0 ] || names=("$@")
for name in "${names[@]}"; do [ -n "${kinds[$name]-}" ] || fail "tests.txt has no test $name"; done
if [ "${SANITIZE:-1}" != 0 ] && [[ " ${names[*]}" == *" cuda_test"* ]]; then
  command -v compute-sanitizer >/dev/null || fail "compute-sanitizer is not on the PATH" \
    "(CUDA toolkit, or the wheel nvidia-cuda-sanitizer-api); SANITIZE=0 does without"
fi

filter=${GTEST_FILTER:-${TESTBRIDGE_TEST_ONLY:-}}
unset TESTBRIDGE_TEST_ONLY
narrowed=${filter:+1}
[ ! -d cache ] || export XDG_CACHE_HOME=$PWD/cache
if [ ! -e "${XDG_CACHE_HOME:-$HOME/.cache}/spotlight/models/SmolLM2-135M-Instruct/config.json" ]; then
  [[ " ${names[*]} " != *" devices_cuda_test "* ]] ||
    echo "without the default model: its cases, *SmolLm2*, are left out"
  filter=${filter:-*}
  # What follows the first '-' of a filter is left out.
  [[ $filter == *-* ]] && filter+=':*SmolLm2*' || filter+='-*SmolLm2*'
fi
[ -z "$filter" ] || export GTEST_FILTER=$filter

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

start() { # name, command ...: in the background, with a TEST_TMPDIR of its own; output and exit status in $logs
  local name=$1 begin=$EPOCHREALTIME
  shift
  mkdir -p "$work/$name"
  (
    TEST_TMPDIR=$work/$name timeout -k 2 "$limit" "$@" >"$logs/$name.log" 2>&1 </dev/null &
    trap 'kill $! 2>/dev/null' TERM
    wait $!
    echo "$? $begin $EPOCHREALTIME" >"$logs/$name.status"
    rm -rf "${work:?}/$name"
  ) 2>/dev/null &
}

counts() { # outputs ...: passed, failed and skipped tests; one that began and did not end has failed
  awk 'FNR == 1 {broken += open; open = 0}
    /^\[ RUN      \]/ {open = 1}
    /\[       OK \] .*ms\)$/ {++passed; open = 0}
    /\[  FAILED  \] .*ms\)$/ {++broken; open = 0}
    /\[  SKIPPED \] .*ms\)$/ {++skipped; open = 0}
    END {print passed + 0, broken + open, skipped + 0}' "$@"
}

explain() { # outputs ...: failed expectations, a death test's child with them, and what compute-sanitizer says
  awk '/^\[  DEATH   \]/ {print; next}
    /^\[ / {left = 0; next}
    /: Failure$|^unknown file: Failure|^terminate|^Traceback/ {left = 20}
    /^========= (Inv|Err|Race|Barrier|Warn|Program)|rror:/ {if (left < 12) left = 12}
    left > 0 {print; --left}' "$@" | head -n 80
  grep -hE '^\[  FAILED  \] .*ms\)' "$@" | sort -u | head -n 20
}

failed=0 judged=0
format='%-36s %6s %6s %8s  %s'
# shellcheck disable=SC2059  # one format for all rows
row() { printf "$format" "$@"; }
table=$(row test passed failed seconds result)
judge() { # name, kind (gtest; filtered: by the caller's wish; script), outputs ...: shows what failed, adds a row
  local name=$1 kind=$2 status seconds passed broken skipped result=ok
  shift 2
  read -r status seconds < <(awk '{if ($1 > worst) worst = $1; if ($3 - $2 > longest) longest = $3 - $2}
    END {printf "%d %.1f\n", worst, longest}' "${@/%.log/.status}")
  read -r passed broken skipped < <(counts "$@")
  if [ "$kind" = script ]; then
    passed=$((status == 0)) broken=$((status != 0)) skipped=0
  fi
  if [ "$status" = 0 ] && [ "$broken" = 0 ] && [ "$passed" -gt 0 ]; then
    judged=1
    [ "$skipped" = 0 ] || result="ok, $skipped skipped"
  elif [ "$status" = 0 ] && [ "$broken" = 0 ] && [ "$kind" = filtered ]; then
    result='none matches'
  else
    failed=1
    result="FAILED (exit $status)"
    [ "$status" != 0 ] || result='FAILED (no test passed)'
    [ "$status" != 0 ] || [ "$broken" = 0 ] || result='FAILED (exit 0, a test did not end)'
    [ "$status" -le 128 ] || result="FAILED (signal $((status - 128)))"
    # timeout's own, or the signal that it sends when its first is not enough.
    if [ "$status" = 124 ] || { [ "$status" = 137 ] && [ "${seconds%.*}" -ge "$limit" ]; }; then
      result="FAILED (longer than $limit s)"
    fi
    echo "== $name"
    explain "$@"
    tail -qn 4 "$@"
  fi
  table+=$'\n'$(row "$name" "$passed" "$broken" "$seconds" "$result")
}

for name in "${names[@]}"; do
  kind=${kinds[$name]}
  [ "$kind" != gtest ] || [ -z "$narrowed" ] || kind=filtered
  if [[ $name == cuda_test* ]]; then
    rm -f "$logs/$name"-[0-9]*  # of an earlier run, which may have had more
    for ((shard = 0; shard < shards; ++shard)); do
      GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard start "$name-$shard" ./run "$name"
    done
    wait
    judge "$name" "$kind" "$logs/$name"-[0-9]*.log
  else
    start "$name" ./run "$name"
    wait
    judge "$name" "$kind" "$logs/$name.log"
  fi
done

tools=(memcheck racecheck synccheck)
[ "${SANITIZE:-1}" != 0 ] || tools=()
for tool in "${tools[@]}"; do
  options=(--tool "$tool" --target-processes all --error-exitcode 9)
  [ "$tool" != memcheck ] || options+=(--padding 256)
  # Few at a time: processes share the GPU by time slices, and tests wait for it often.
  for name in "${names[@]}"; do
    [[ $name == cuda_test* ]] || continue
    chosen=$quick
    [ "$tool" != racecheck ] || chosen=$fewer
    # synccheck's own code makes an illegal memory access in kernels of thread block clusters, after which every test of
    # the process fails. EncodeAndAppend's for decode rows is one; cuda_test_compute80, which has none, runs it all.
    [ "$tool-$name" != synccheck-cuda_test ] || chosen+='-*Encode*:*CudaChain*'
    # Arrays are then allocations of their own, so that an access past one is seen.
    SPOTLIGHT_SEPARATE_ALLOCATIONS=1 start "$name-$tool" compute-sanitizer "${options[@]}" \
      ./run "$name" --gtest_filter="$chosen"
  done
  wait
  for name in "${names[@]}"; do
    [[ $name != cuda_test* ]] || judge "$name-$tool" gtest "$logs/$name-$tool.log"
  done
done

if [ -n "${SLOWEST:-}" ]; then
  (cd "$logs" && grep -oE '^\[ .*\] [A-Z].*ms\)' ./*.log) | sed -E 's/, where .*\(([0-9]+ ms)/ (\1/' |
    awk -F'[()]' '{print $(NF - 1) + 0, $0}' | sort -rn | head -n "$SLOWEST" | cut -d' ' -f2- | cut -c1-150
fi
echo "$table"
if [ $failed = 0 ] && [ $judged = 0 ]; then
  echo "no test passed"
  failed=1
fi
exit $failed
