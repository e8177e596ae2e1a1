#!/usr/bin/env bash
# spotlight-server under compute-sanitizer's memcheck, for a program that starts a server and stops it with SIGTERM, as
# soak_test does: compute-sanitizer does not pass the signal on, this does. Exits as the server does, or with 9 when
# memcheck found something. The process that is seen from outside is not the server's: its memory says nothing.
# usage: checked_server ARGUMENT ...
# CHECKED_PROGRAM: the server; MEMCHECK_LOG: where memcheck writes.
set -uo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
program=$(readlink -f "${CHECKED_PROGRAM:-$here/bin/spotlight-server}")
export SPOTLIGHT_CHECKED_BY=$$

compute-sanitizer --tool memcheck --error-exitcode 9 --log-file "${MEMCHECK_LOG:-memcheck.txt}" "$program" "$@" &
child=$!
signalled=0
# shellcheck disable=SC2317  # the trap calls it
stop() { # whichever way compute-sanitizer has started it
  signalled=1
  local process
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/exe")" = "$program" ] &&
      grep -qsz "^SPOTLIGHT_CHECKED_BY=$$\$" "$process/environ" && kill -TERM "${process#/proc/}"
  done
}
trap stop TERM
wait "$child"
status=$?
# A signal ends the wait, not the server.
while [ $signalled = 1 ] && [ $status -gt 128 ]; do
  signalled=0
  wait "$child"
  status=$?
done
exit $status
