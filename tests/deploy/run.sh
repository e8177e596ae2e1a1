#!/bin/sh
# The GGUF converter's Python has PyYAML.
python=$(tools/converter_python.sh) && exec "$python" "$@"
