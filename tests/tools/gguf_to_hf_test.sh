#!/usr/bin/env bash
set -euo pipefail
exec "$(tools/converter_python.sh)" tests/tools/gguf_to_hf_test.py
