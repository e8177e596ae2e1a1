#!/usr/bin/env bash
# In which order run_load.sh starts soaks, with what flags, and how it judges them: on a bundle whose soaks pass, fail,
# end without a verdict and hang.
# shellcheck disable=SC2016  # the fakes expand it
set -uo pipefail
unset AT_ONCE LIMIT_S LOGS STREAMS
bundle=$TEST_TMPDIR/bundle
export DEVICE=cpu SOAKS=$TEST_TMPDIR/soaks LOGS=$TEST_TMPDIR/logs PATH=$TEST_TMPDIR/path:$PATH
mkdir -p "$bundle/bin" "$TEST_TMPDIR/path" "$bundle"/{tests/testdata/tiny-llama,benchmarks/engine/qwen2.5-7b-shape}
install -m 755 tests/gpu/run_load.sh "$bundle/run_load"
touch "$bundle"/tests/testdata/tiny-llama/{tokenizer,tokenizer_config,generation_config}.json \
  "$bundle/benchmarks/engine/qwen2.5-7b-shape/config.json"
program() { # path, what it does
  printf '#!/usr/bin/env bash\n%s\n' "$2" >"$1"
  chmod +x "$1"
}
program "$TEST_TMPDIR/path/compute-sanitizer" true
program "$bundle/run" 'name=$1; shift; exec "$(dirname "$0")/bin/$name" "$@"'
program "$bundle/bin/make_untrained_hash" true
# Its name is its folder's, as run_load calls it. It takes as many seconds as NAME_TAKES says, and ends as NAME_ENDS.
program "$bundle/bin/soak_test" 'name=$(basename "$TEST_TMPDIR"); name=${name/7b/big}; takes=${name}_TAKES ends=${name}_ENDS
  echo "begin $name $*" >>"$SOAKS"
  echo "a request" >"$TEST_TMPDIR/server.out"; echo "a line of the log" >"$TEST_TMPDIR/server.err"
  [ "$name" != checked ] || echo "========= ERROR SUMMARY: ${ERRORS:-0} errors" >"$MEMCHECK_LOG"
  sleep "${!takes:-0}"
  echo "end $name" >>"$SOAKS"
  case ${!ends:-well} in
    well) echo "everything held" ;;
    badly) echo "2 things did not hold"; exit 1 ;;
    early) exit 139 ;;
  esac'

wrong=0
run() { rm -f "$SOAKS"; output=$(cd / && "$bundle/run_load" "$@" 2>&1); status=$?; }
expect() { # expected exit status, then lines of the output (patterns)
  [ "$status" = "$1" ] || { echo "exit $status, not $1"; wrong=1; }
  shift
  for line in "$@"; do
    grep -qE "^$line\$" <<<"$output" || { echo "no line: $line"; wrong=1; }
  done
  [ $wrong = 0 ] || { echo "$output"; exit 1; }
}
order() { # what began and ended, in that order
  local was
  was=$(cut -d' ' -f1,2 "$SOAKS" | paste -sd, -)
  [ "$was" = "$1" ] || { echo "order: $was, not $1"; exit 1; }
}
flags_of() { sed -n "s/^begin $1 //p" "$SOAKS"; }

# One after another; each with its own patience, and prompts that may hold up a step under memcheck alone.
checked_TAKES=0.5 run 14
expect 0 'checked +0 +[01]  everything held; ERROR SUMMARY: 0 errors' '7b +0 +[01]  everything held'
order 'begin checked,end checked,begin big,end big'
for flag in --seconds=14 --streams=200 --patience_seconds=180 '--max-token-gap-ms 2000' --server=./checked_server; do
  [[ $(flags_of checked) == *"$flag"* ]] || { echo "checked without $flag: $(flags_of checked)"; exit 1; }
done
for flag in --patience_seconds=90 '--random-weights 1' --server=bin/spotlight-server; do
  [[ $(flags_of big) == *"$flag"* ]] || { echo "7b without $flag: $(flags_of big)"; exit 1; }
done
[[ $(flags_of big) != *--max-token-gap-ms* ]] || { echo "7b with checked's gap"; exit 1; }
# Of the request log the compressed one is kept.
[ ! -e "$LOGS/7b/server.out" ] || { echo "server.out is kept"; exit 1; }
[ "$(gzip -dc "$LOGS/7b/server.out.gz")" = 'a request' ] || { echo "server.out is not compressed"; exit 1; }

# Where there is no GPU its memory is not read.
[[ $(<"$SOAKS") != *device_memory* ]] || { echo "device memory without a device: $(<"$SOAKS")"; exit 1; }

# On a GPU it is, for each server that runs alone without memcheck, by a command that says it.
program "$TEST_TMPDIR/path/nvidia-smi" '[ "$1" = --id=1 ] && echo 1234'
DEVICE=cuda:1 run 14 checked 7b tiny
expect 0 'device memory in use, MB, every 15 s: 1234 .*'
for server in big tiny; do
  [[ $(flags_of $server) =~ --device_memory_command=(nvidia-smi .*)$ ]] || { echo "$server without it"; exit 1; }
  [ "$(${BASH_REMATCH[1]})" = 1234 ] || { echo "not a command: ${BASH_REMATCH[1]}"; exit 1; }
done
[[ $(flags_of checked) != *device_memory* ]] || { echo "checked with memcheck's memory"; exit 1; }
AT_ONCE=1 DEVICE=cuda:1 run 14 tiny 7b
expect 0
[[ $(<"$SOAKS") != *device_memory* ]] || { echo "of one server what two take: $(<"$SOAKS")"; exit 1; }

# At once: the seconds are each one's own, not those until it was waited for.
export AT_ONCE=1
checked_TAKES=6 big_TAKES=1 run 14
expect 0 'checked +0 +[6-9]  .*' '7b +0 +[1-4]  everything held'
[[ $(cut -d' ' -f1 "$SOAKS" | paste -sd, -) = begin,begin,end,end ]] || { echo "not at once"; exit 1; }
unset AT_ONCE

# One that fails does not keep the next one from its turn.
checked_ENDS=badly run 14
expect 1 'checked +1 .*  2 things did not hold; ERROR SUMMARY: 0 errors' '7b +0 .*  everything held'
ERRORS=3 run 14 checked tiny
expect 1 'checked +9 .*  everything held; ERROR SUMMARY: 3 errors' 'tiny +0 .*  everything held'
tiny_ENDS=early run 14 tiny
expect 1 'tiny +139 .*  FAILED: no verdict' 'a line of the log' 'the server.s last lines, and 1 requests logged:'
LIMIT_S=1 tiny_TAKES=600 run 14 tiny
expect 1 'tiny +124 +1  FAILED: no verdict within 1 s'

run 14 big
expect 2 'run_load: SERVER is checked, 7b or tiny, not big'
run soon
expect 2 'run_load: SECONDS is a whole number, not soon'
