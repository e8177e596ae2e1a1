#!/usr/bin/env bash
# checked_server.sh hands SIGTERM on to the server that compute-sanitizer has started, and the exit status back.
set -uo pipefail
mkdir -p "$TEST_TMPDIR/path"
# As compute-sanitizer: the program is its child, it passes no signal on, and keeps the exit status.
cat >"$TEST_TMPDIR/path/compute-sanitizer" <<'FAKE'
#!/usr/bin/env bash
while [[ $1 == --* ]]; do
  [ "$1" != --log-file ] || echo checked >"$2"
  shift 2
done
"$@" &
child=$!
trap '' TERM
wait $child
FAKE
chmod +x "$TEST_TMPDIR/path/compute-sanitizer"
# A server of its own executable, so that no other process is taken for it.
cp "$(readlink -f "$(command -v bash)")" "$TEST_TMPDIR/server"
export PATH=$TEST_TMPDIR/path:$PATH CHECKED_PROGRAM=$TEST_TMPDIR/server MEMCHECK_LOG=$TEST_TMPDIR/memcheck.txt

fail() { echo "$*"; exit 1; }
serve() { # exit status on SIGTERM: in the background, once it is ready
  rm -f "$TEST_TMPDIR/ready"
  tests/gpu/checked_server.sh -c "trap 'exit $1' TERM; touch '$TEST_TMPDIR/ready'; while :; do sleep 0.05; done" &
  server=$!
  for ((try = 0; try < 200; ++try)); do
    [ ! -e "$TEST_TMPDIR/ready" ] || return 0
    sleep 0.05
  done
  fail "the server did not start"
}

serve 0
first=$server
serve 7
kill -TERM "$server"
wait "$server"
[ $? = 7 ] || fail "not the server's exit status"
kill -0 "$first" || fail "the other server was stopped as well"
kill -TERM "$first"
wait "$first" || fail "a server that ends well, did not"
tests/gpu/checked_server.sh -c 'exit 3'
[ $? = 3 ] || fail "not the exit status of a server that ends by itself"
grep -qx checked "$MEMCHECK_LOG" || fail "memcheck was not told where to write"
