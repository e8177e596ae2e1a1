#!/usr/bin/env bash
# One step of a short sequence: what was measured is printed, and fits what was promised.
set -euo pipefail
line=$(OMP_NUM_THREADS=1 benchmarks/training/hash_training --tokens=256 --steps=1)
echo "$line"
[[ $line =~ step\ +([0-9.]+)\ ms.*peak\ +([0-9.]+)\ MB,\ promised\ +([0-9.]+)\ MB ]]
awk -v ms="${BASH_REMATCH[1]}" -v peak="${BASH_REMATCH[2]}" -v promised="${BASH_REMATCH[3]}" \
  'BEGIN {exit !(ms > 0 && peak > 0 && peak <= promised)}'
