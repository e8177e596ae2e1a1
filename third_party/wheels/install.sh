#!/usr/bin/env bash
# Installs the wheels of requirements.txt into a folder named after that file's hash, and prints the folder.
# Safe to repeat and to run twice at once; a folder under its final name is complete.
# usage: install.sh [CACHE_DIR]    (default: ${XDG_CACHE_HOME:-~/.cache}/spotlight)
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/spotlight}
id=$(sha256sum "$here/requirements.txt" | cut -c1-12)
site=$cache/wheels-$id
if [ -d "$site" ]; then echo "$site"; exit 0; fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/wheels-part.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "installing LibTorch and the CUDA toolkit (2.5 GB to download, 6 GB on disk) into $site" >&2
python3 -m venv "$work/venv" >&2
# --python-version: the wheels' C++ half is the same for every Python, so any python3 on this machine will do.
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes \
  --only-binary=:all: --python-version 3.11 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 \
  --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  --platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64 --platform manylinux_2_5_x86_64 \
  --platform manylinux1_x86_64 \
  --target "$work/site" -r "$here/requirements.txt" >&2
# LibTorch ships the headers of an older protobuf, which would win over the system's.
rm -rf "$work/site/torch/include/google"
mv -T "$work/site" "$site" 2>/dev/null || [ -d "$site" ]
echo "$site"
