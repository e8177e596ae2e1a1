#!/usr/bin/env bash
# Builds everything and runs the CPU tests. The last line counts them: "N passed, N failed".
# usage: test.sh [bazel flags]
set -uo pipefail
cd "$(dirname "$0")/.."
tools/fetch_default_model.sh >/dev/null || exit 1  # for the golden test of the default model
log=$(mktemp)
trap 'rm -f "$log"' EXIT
bazel test "$@" //... 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
passed=$(grep -cE '^//.* PASSED in ' "$log")
cached=$(grep -cE '^//.* \(cached\) PASSED in ' "$log")
failed=$(grep -cE '^//.* (FAILED|TIMEOUT|NO STATUS|FAILED TO BUILD)' "$log")
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
  echo "the build failed (bazel exit $status)"
  failed=1
fi
[ "$cached" = 0 ] || echo "($cached of them unchanged since an earlier run)"
# What a test of deploy/ lacked on this machine.
find -L "$(bazel info bazel-testlogs 2>/dev/null)/tests/deploy" -name test.log -exec grep -h '^SKIPPED' {} + 2>/dev/null | sort -u
echo "$passed passed, $failed failed"
exit "$status"
