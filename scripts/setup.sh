#!/usr/bin/env bash
# Installs what building needs: Debian packages (as root or through sudo), cargo, LibTorch and the CUDA toolkit.
# Safe to repeat: a second run checks and returns within a second or two.
# usage: setup.sh [further Debian packages]
set -euo pipefail
cd "$(dirname "$0")/.."
say() { echo "[setup] $*" >&2; }

packages=(
  bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto bazel-skylib
  g++ make git ca-certificates python3-venv
  libabsl-dev libbenchmark-dev libcpp-httplib-dev libgmock-dev libgrpc++-dev libgrpc-dev libgtest-dev
  libprotobuf-dev libspdlog-dev libssl-dev nlohmann-json3-dev prometheus-cpp-dev protobuf-compiler
  protobuf-compiler-grpc "$@"
)
# Any cargo that knows the lock file's format will do; Debian's own (cargo-web) where there is none.
if ! PATH=$HOME/.cargo/bin:/usr/local/cargo/bin:$PATH cargo --version >/dev/null 2>&1; then
  packages+=(cargo-web rustc-web)
fi

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || { say "these Debian 12 packages are needed: ${missing[*]}"; exit 1; }
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "run as root, or install: ${missing[*]}"; exit 1; }
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

say "LibTorch and the CUDA toolkit: $(third_party/wheels/install.sh)"
