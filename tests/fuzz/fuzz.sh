#!/usr/bin/env bash
# Fuzzes each target with libFuzzer, under AddressSanitizer and UndefinedBehaviorSanitizer, one after another. Stops at
# the first crash, hang (10 s) or allocation over 1 GB, and says which input it was.
# usage: fuzz.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=$1
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(config hash_file open_request request safetensors shard_index tokenizer trace_parent)

labels=()
for target in "${targets[@]}"; do labels+=("//tests/fuzz:${target}_fuzzer"); done
bazel build --config=fuzz "${labels[@]}"
built=$(bazel info --config=fuzz bazel-bin 2>/dev/null)/tests/fuzz
# What is found is kept between runs; a copy of the program does not change under a build meanwhile.
kept=${XDG_CACHE_HOME:-$HOME/.cache}/spotlight/fuzz
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" spotlight_fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
for target in "${targets[@]}"; do
  mkdir -p "$kept/$target" "$kept/harmful"
  install "$built/${target}_fuzzer" "$scratch/$target"
  dictionary=()
  [ -f "tests/fuzz/$target.dict" ] && dictionary=("-dict=tests/fuzz/$target.dict")
  echo "fuzz: $target for $seconds s"
  if ! TEST_TMPDIR=$scratch ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 UBSAN_OPTIONS=print_stacktrace=1 \
      "$scratch/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -malloc_limit_mb=1024 \
      -max_len=16384 -print_final_stats=1 -artifact_prefix="$kept/harmful/$target-" "${dictionary[@]}" \
      "$kept/$target" "tests/fuzz/corpus/$target" >"$kept/$target.log" 2>&1; then
    tail -n 60 "$kept/$target.log"
    echo "fuzz: $target found something; mend it, and keep the input in tests/fuzz/corpus/$target"
    exit 1
  fi
  grep -E '^(Done|stat::)' "$kept/$target.log" | sed 's/^/  /'
done
