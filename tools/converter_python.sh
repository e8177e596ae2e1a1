#!/usr/bin/env bash
# Makes the Python environment of the GGUF converter (tools/requirements.txt, 40 MB) where it is missing, and prints its
# python. Safe to repeat and to run twice at once.
set -euo pipefail
tools=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spotlight
venv=$cache/converter-$(sha256sum "$tools/requirements.txt" | cut -c1-12)

mkdir -p "$cache"
exec 8>"$cache/converter.lock"
flock 8
if [ ! -x "$venv/complete/bin/python" ]; then
  python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "the GGUF converter needs Python 3.11 or later with venv and pip (Debian: apt-get install python3-venv)" >&2
    exit 1
  }
  echo "installing the GGUF reader into $venv" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary=:all: -r "$tools/requirements.txt" >&2
  ln -s . "$venv/complete"  # only now is it whole
fi
echo "$venv/bin/python"
