#!/usr/bin/env bash
# How run_tests.sh judges: on a bundle of programs that pass, fail, crash, hang, stop half-way and say nothing.
# shellcheck disable=SC2016  # the fakes expand it
set -uo pipefail
unset GTEST_FILTER TESTBRIDGE_TEST_ONLY LOGS SHARDS SLOWEST
bundle=$TEST_TMPDIR/bundle
mkdir -p "$bundle/bin" "$TEST_TMPDIR/path" "$TEST_TMPDIR/cache/spotlight/models/SmolLM2-135M-Instruct"
install -m 755 tests/gpu/run_tests.sh "$bundle/run_tests"
export XDG_CACHE_HOME=$TEST_TMPDIR/cache PATH=$TEST_TMPDIR/path:$PATH
touch "$XDG_CACHE_HOME/spotlight/models/SmolLM2-135M-Instruct/config.json"

program() { # path, kind in tests.txt or "", what it does
  printf '#!/usr/bin/env bash\n%s\n' "$3" >"$1"
  chmod +x "$1"
  [ -z "$2" ] || echo "$2 $(basename "$1")" >>"$bundle/tests.txt"
}
ran='echo "[ RUN      ] A.B"; echo "[       OK ] A.B (1 ms)"'
program "$bundle/run" '' 'name=$1; shift; exec "$(dirname "$0")/bin/$name" "$@"'
program "$bundle/bin/passes" gtest "$ran; printf 'no line end'; $ran; [ -d \"\$TEST_TMPDIR\" ] && [ -e tests.txt ]"
program "$bundle/bin/skips_one" gtest "$ran; echo '[ RUN      ] A.C'; echo '[  SKIPPED ] A.C (0 ms)'"
program "$bundle/bin/skips_all" gtest "echo '[ RUN      ] A.C'; echo '[  SKIPPED ] A.C (0 ms)'"
program "$bundle/bin/fails" gtest "$ran; echo '[ RUN      ] A.C'; echo 'a.cc:7: Failure'; echo 'Expected: more'
  echo '[  DEATH   ] the child said'; echo '[  FAILED  ] A.C, where GetParam() = 4 (2 ms)'; echo '[  FAILED  ] A.C'
  printf '%s\n' '' 1 FAILED TEST; exit 1"
program "$bundle/bin/crashes" gtest "$ran; echo '[ RUN      ] A.D'; kill -SEGV \$\$"
program "$bundle/bin/hangs" gtest "$ran; echo '[ RUN      ] A.E'; sleep 600"
program "$bundle/bin/leaves_early" gtest "$ran; echo '[ RUN      ] A.F'; exit 0"
program "$bundle/bin/says_nothing" gtest true
program "$bundle/bin/script_passes" script true
program "$bundle/bin/script_fails" script 'exit 3'
program "$bundle/bin/filtered" gtest '[ "$GTEST_FILTER" = "$WANTED" ] || exit 5; [ -n "${SILENT-}" ] || { '"$ran"'; }'
program "$bundle/bin/cuda_test" gtest "echo shard \$GTEST_SHARD_INDEX of \$GTEST_TOTAL_SHARDS; $ran"
program "$bundle/bin/cuda_test_compute80" gtest "$ran"
# As compute-sanitizer: options, then the program; 9 when it finds something.
program "$TEST_TMPDIR/path/compute-sanitizer" '' 'while [ "$1" != ./run ]; do tool=${tool-}$1; shift; done
  echo "filter of $2: ${!#}"
  [ -z "${SPOTLIGHT_SEPARATE_ALLOCATIONS-}" ] || "$@"
  [[ $tool != *"${FINDS-none}"* ]] || { echo "========= Error: out of bounds"; exit 9; }'

wrong=0
run() { output=$(cd / && LIMIT_S=${LIMIT_S:-20} "$bundle/run_tests" "$@" 2>&1); status=$?; }
expect() { # expected exit status, then lines of the output (patterns)
  [ "$status" = "$1" ] || { echo "exit $status, not $1"; wrong=1; }
  shift
  for line in "$@"; do
    grep -qE "^$line\$" <<<"$output" || { echo "no line: $line"; wrong=1; }
  done
  [ $wrong = 0 ] || { echo "$output"; exit 1; }
}

export SANITIZE=0
run passes skips_one script_passes
expect 0 'passes +2 +0 +[0-9.]+  ok' 'skips_one +1 +0 +[0-9.]+  ok, 1 skipped' 'script_passes +1 +0 +[0-9.]+  ok'
for name in skips_all fails crashes leaves_early says_nothing script_fails; do
  run passes "$name"
  expect 1 'passes +2 +0 .* ok' "== $name" "$name .*FAILED.*"
done
LIMIT_S=1 run passes hangs
expect 1 'hangs +1 +1 +[1-5][.][0-9]  FAILED \(longer than 1 s\)' '\[ RUN      \] A.E'

# All of them, and what is told of each.
LIMIT_S=1 run
expect 1 'test +passed failed +seconds  result' 'passes +2 +0 .* ok' 'fails +1 +1 .* FAILED \(exit 1\)' \
  'a.cc:7: Failure' 'Expected: more' '\[  DEATH   \] the child said' 'crashes +1 +1 .* FAILED \(signal 11\)' \
  'leaves_early +1 +1 .* FAILED \(exit 0, a test did not end\)' 'says_nothing +0 +0 .* FAILED \(no test passed\)' \
  'skips_all +0 +0 .* FAILED \(no test passed\)' 'script_fails +0 +1 .* FAILED \(exit 3\)' 'cuda_test +4 +0 .* ok'

# Filters reach the programs; one that matches nothing anywhere is an error.
export WANTED='A.*'
GTEST_FILTER='A.*' run filtered passes
expect 0 'filtered +1 +0 .* ok'
TESTBRIDGE_TEST_ONLY='A.*' SILENT=1 run filtered passes
expect 0 'filtered +0 +0 .* none matches'
GTEST_FILTER='A.*' SILENT=1 run filtered
expect 1 'no test passed'
rm "$XDG_CACHE_HOME/spotlight/models/SmolLM2-135M-Instruct/config.json"
WANTED='*-*SmolLm2*' run filtered
expect 0
WANTED='A.*-A.B:*SmolLm2*' GTEST_FILTER='A.*-A.B' run filtered
expect 0
run nothing
expect 2 'run_tests: tests.txt has no test nothing'

# Shards, and compute-sanitizer's part.
export SANITIZE=1
SHARDS=2 LOGS=$TEST_TMPDIR/logs run cuda_test passes
expect 0 'cuda_test +2 +0 .* ok' 'cuda_test-memcheck +1 +0 .* ok' 'cuda_test-racecheck .* ok' \
  'cuda_test-synccheck .* ok'
grep -qx 'shard 1 of 2' "$TEST_TMPDIR/logs/cuda_test-1.log" || { echo "no shard 1 of 2"; exit 1; }
# Clusters' kernels, which synccheck cannot run, are left out of it, and only of it.
LOGS=$TEST_TMPDIR/logs run cuda_test cuda_test_compute80
expect 0 'cuda_test-synccheck .* ok' 'cuda_test_compute80-synccheck .* ok'
for log in cuda_test-{memcheck,racecheck,synccheck} cuda_test_compute80-{memcheck,racecheck,synccheck}; do
  filter=$(sed -n "s/^filter of ${log%-*}: --gtest_filter=//p" "$TEST_TMPDIR/logs/$log.log")
  [ -n "$filter" ] || { echo "$log: no filter"; exit 1; }
  left_out=
  [ "$log" != cuda_test-synccheck ] || left_out='*Encode*:*CudaChain*'
  [ "${filter#"${filter%%-*}"}" = "${left_out:+-$left_out}" ] || { echo "$log: $filter"; exit 1; }
done
FINDS=racecheck run cuda_test
expect 1 'cuda_test-memcheck .* ok' '========= Error: out of bounds' 'cuda_test-racecheck .* FAILED \(exit 9\)'
