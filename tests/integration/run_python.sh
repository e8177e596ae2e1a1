#!/bin/sh
# Bazel's own Python rules want a toolchain; the system's python3 is all that is needed.
exec python3 "$@"
