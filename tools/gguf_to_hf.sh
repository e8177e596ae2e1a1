#!/usr/bin/env bash
# gguf_to_hf.py in the environment that it needs. usage: gguf_to_hf.sh MODEL.gguf FOLDER [--dtype ...]; --help for more.
set -euo pipefail
tools=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
python=$("$tools/converter_python.sh")
exec env PYTHONDONTWRITEBYTECODE=1 "$python" "$tools/gguf_to_hf.py" "$@"
