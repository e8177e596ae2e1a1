#!/usr/bin/env bash
# Formatting of C++ (clang-format) and Bazel files (buildifier, where it is installed), and the rules that no tool knows.
# usage: check.sh [--fix]
set -uo pipefail
cd "$(dirname "$0")/.."
fix=${1:-}
failed=0
complain() { echo "check: $*"; failed=1; }

mapfile -t sources < <(git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | grep -v '^third_party/')
if ! command -v clang-format >/dev/null; then
  complain "clang-format is not installed (apt-get install clang-format)"
elif [ "$fix" = --fix ]; then
  clang-format -i "${sources[@]}"
else
  clang-format --dry-run --Werror "${sources[@]}" || complain "run 'make format'"
fi

mapfile -t builds < <(git ls-files 'BUILD' '*/BUILD' '*.bzl' 'WORKSPACE' | grep -v '^third_party/rules_cc')
buildifier=$(command -v buildifier || echo "$HOME/go/bin/buildifier")
if [ ! -x "$buildifier" ]; then
  echo "check: buildifier is not installed, Bazel files are not checked"
elif [ "$fix" = --fix ]; then
  "$buildifier" -lint=off "${builds[@]}"
else
  "$buildifier" -mode=check -lint=off "${builds[@]}" || complain "run 'make format'"
fi

# The dependency rule also holds for includes that Bazel does not see (Debian's headers are on the default path).
layer() { # folder, pattern, what it says
  git grep -nE "^#include [<\"]($2)" -- "$1" && complain "$1 must not include $3"
}
layer 'kernels/*' 'torch/|ATen/|c10/|engine/|server/|grpc' 'LibTorch, the engine or gRPC'
layer 'engine/*' 'grpc|google/|prometheus/|httplib|server/|proto/' 'gRPC, protobuf, Prometheus or HTTP'
layer 'server/*' 'torch/|ATen/|c10/|kernels/' 'LibTorch or kernels'
layer 'client/*' 'torch/|ATen/|c10/|kernels/|engine/|server/' 'anything but proto'

git ls-files -z '*.sh' | xargs -0 -n 1 bash -n || complain "a shell script does not parse"
[ "$failed" = 0 ] && echo "check: clean"
exit "$failed"
