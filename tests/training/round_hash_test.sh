#!/usr/bin/env bash
set -euo pipefail
exec "$(tools/converter_python.sh)" tests/training/round_hash_test.py
