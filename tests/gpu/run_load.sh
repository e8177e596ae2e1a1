#!/usr/bin/env bash
# Random load on real servers on a GPU: soak_test's streams (tests/soak/README.md), by default on two servers one after
# another. Prints what each soak said, the server's last lines where a soak did not get to its end, and a table last.
# Exits 1 when anything did not hold, or memcheck did not come to an end.
# usage: run_load [SECONDS=240] [SERVER ...]     SERVER of:
#   checked  the tiny test model under compute-sanitizer's memcheck; takes a minute longer to drain
#   7b       Qwen2.5-7B's shape with random weights
#   tiny     the tiny test model
# default: checked 7b. AT_ONCE=1: all of them at once; DEVICE=cuda:0, or cpu; STREAMS=200; LIMIT_S=SECONDS+360 (checked:
# SECONDS+540) for each server's soak, from the start of its server to its verdict; LOGS=FOLDER keeps logs and figures.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")" || exit 2
seconds=${1:-240}
shift || true
servers=("$@")
[ $# -gt 0 ] || servers=(checked 7b)
device=${DEVICE:-cuda:0}
work=$(mktemp -d)
logs=${LOGS:-$work/logs}
mkdir -p "$logs" && logs=$(cd "$logs" && pwd) || exit 2
soaks=() sampler=
# shellcheck disable=SC2317  # the trap calls it
finish() {
  [ -z "$sampler" ] || kill "$sampler" 2>/dev/null
  # A soak's group holds its server, however that was started.
  for soak in "${soaks[@]}"; do kill -KILL -- "-$soak" 2>/dev/null; done
  wait 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

fail() { echo "run_load: $*" >&2; exit 2; }
[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "SECONDS is a whole number, not $seconds"
for server in "${servers[@]}"; do
  case $server in
    checked)
      command -v compute-sanitizer >/dev/null ||
        fail "compute-sanitizer is not on the PATH (CUDA toolkit, or the wheel nvidia-cuda-sanitizer-api)"
      ;;
    7b | tiny) ;;
    *) fail "SERVER is checked, 7b or tiny, not $server" ;;
  esac
done

common="--device $device --allow-untrained-hash --sparse-min-context 200 --quality-sample-every 16"
[ "$device" = cpu ] || common+=' --dtype bf16'

memory_in_use="nvidia-smi --id=${device#cuda:} --query-gpu=memory.used --format=csv,noheader,nounits" # MB

start() { # server: its soak in the background, as the last of soaks
  local server=$1 folder=$logs/$1 model=tests/testdata/tiny-llama program=bin/spotlight-server gap=20 patience=90
  local flags=$common weights=() judged=()
  rm -rf "$folder"
  mkdir -p "$folder"
  case $server in
    checked)
      program=./checked_server gap=60 patience=180
      # Under memcheck a step that is enqueued kernel by kernel may take more than three times as long as a graph's
      # replay, which is all that prompts may hold up a step by default: they would go on by their shortest chunks.
      flags+=' --max-token-gap-ms 2000 --max-step-seconds 600'
      ;;
    7b)
      # The tiny model's tokenizer serves: its ids are among the larger vocabulary's.
      model=$work/7b
      mkdir -p "$model"
      cp tests/testdata/tiny-llama/{tokenizer,tokenizer_config,generation_config}.json "$model"
      cp benchmarks/engine/qwen2.5-7b-shape/config.json "$model"
      weights=(--random-weights 1)
      flags+=' --random-weights 1 --max-running 64'
      ;;
  esac
  # What grows on the device is the server's where it runs alone, and without memcheck's own records.
  if [ "$device" != cpu ] && [ "${AT_ONCE:-0}" = 0 ] && [ "$server" != checked ]; then
    judged=(--device_memory_command="$memory_in_use")
  fi
  local hash=$work/$server.safetensors
  ./run make_untrained_hash --model "$model" --out "$hash" "${weights[@]}" >"$folder/hash.txt" 2>&1 ||
    { cat "$folder/hash.txt"; fail "no hash for $server"; }
  # Beside the soak's own seconds: starting, patience after each part, draining.
  limits[$server]=${LIMIT_S:-$((seconds + 2 * patience + 180))}
  echo "$EPOCHREALTIME" >"$folder/begin"
  (
    # timeout makes a group of its own, which it stops whole. Then there is no file `end`.
    # shellcheck disable=SC2016  # bash -c expands it
    TEST_TMPDIR=$folder MEMCHECK_LOG=$folder/memcheck.txt exec timeout -k 10 "${limits[$server]}" \
      bash -c './run soak_test "$@"; status=$?; echo "$EPOCHREALTIME" >"$TEST_TMPDIR/end"; exit $status' soak \
      --seconds="$seconds" --streams="${STREAMS:-200}" --longest_gap_seconds=$gap --patience_seconds=$patience \
      --server="$program" --model="$model" --server_flags="$flags --hash $hash" "${judged[@]}"
  ) >"$folder/soak.txt" 2>&1 </dev/null &
  soaks+=($!)
}

failed=0
declare -A limits
table=$(printf '%-10s %6s %8s  %s' server exit seconds result)
finished() { # server, its soak: waits, shows what it said, adds a row
  local server=$1 folder=$logs/$1 status result
  wait "$2"
  status=$?
  kill -KILL -- "-$2" 2>/dev/null # a server that its soak left behind
  local limit=${limits[$server]} elapsed
  elapsed=$limit
  [ ! -e "$folder/end" ] || elapsed=$(paste "$folder/begin" "$folder/end" | awk '{printf "%.0f", $2 - $1}')
  result=$(tail -n 1 "$folder/soak.txt")
  echo "== $server"
  tail -n 60 "$folder/soak.txt"
  if ! grep -qE '^(everything held|[0-9]+ things did not hold)$' "$folder/soak.txt"; then
    result="FAILED: no verdict"
    [ $status != 124 ] && [ $status != 137 ] || result+=" within $limit s"
    echo "the server's last lines, and $(wc -l <"$folder/server.out") requests logged:"
    tail -n 30 "$folder/server.err"
  fi
  if [ "$server" = checked ]; then
    head -n 40 "$folder/memcheck.txt"
    local summary
    summary=$(grep -o 'ERROR SUMMARY: .*' "$folder/memcheck.txt" || echo 'no summary of memcheck')
    result+="; $summary"
    [ "$summary" = 'ERROR SUMMARY: 0 errors' ] || status=9
  fi
  [ ! -e "$folder/server.out" ] || gzip -f "$folder/server.out" # the request log, by far the largest
  [ $status = 0 ] || failed=1
  table+=$'\n'$(printf '%-10s %6s %8s  %s' "$server" "$status" "$elapsed" "$result")
}

if [ "$device" != cpu ]; then
  while :; do
    $memory_in_use
    sleep 15
  done >"$logs/memory.txt" 2>&1 & # no pipe of ours, which its last sleep would hold open
  sampler=$!
fi
if [ "${AT_ONCE:-0}" != 0 ]; then
  for server in "${servers[@]}"; do start "$server"; done
  for index in "${!servers[@]}"; do finished "${servers[index]}" "${soaks[index]}"; done
else
  for index in "${!servers[@]}"; do
    start "${servers[index]}"
    finished "${servers[index]}" "${soaks[index]}"
  done
fi
[ -z "$sampler" ] || echo "device memory in use, MB, every 15 s: $(tr '\n' ' ' <"$logs/memory.txt")"
echo "$table"
exit $failed
