#!/usr/bin/env bash
# The shipped texts pass their check, and the check fails where a text is altered, missing, extra or in both halves.
set -euo pipefail

check=training/texts/check.py
python3 "$check" training/texts

# Runs the check on a copy of two texts that the given command has spoilt, in the copy's folder; it must say `expected`.
expect_fault() {
  local expected=$1 copy output
  shift
  copy=$(mktemp -d "$TEST_TMPDIR/texts.XXXXXX")
  mkdir -p "$copy/train/code" "$copy/eval/code"
  cat training/texts/train/code/zstd.c.txt >"$copy/train/code/zstd.c.txt"
  cat training/texts/eval/code/zod.ts.txt >"$copy/eval/code/zod.ts.txt"
  grep -E 'train/code/zstd|eval/code/zod' training/texts/MANIFEST.sha256 >"$copy/MANIFEST.sha256"
  python3 "$check" "$copy"
  (cd "$copy" && "$@")
  if output=$(python3 "$check" "$copy"); then
    echo "FAILED: the check passed where it should say '$expected'"
    exit 1
  fi
  if [[ $output != *"$expected"* ]]; then
    echo "FAILED: the check did not say '$expected' but: $output"
    exit 1
  fi
}

append_byte() { printf "$1" >>eval/code/zod.ts.txt; }
leak_train_into_eval() { tail -c 400 train/code/zstd.c.txt >>eval/code/zod.ts.txt; }

expect_fault "eval/code/zod.ts.txt: its SHA-256" append_byte ' \n'
expect_fault "eval/code/zod.ts.txt: not UTF-8" append_byte '\377\n'
expect_fault "train/code/zstd.c.txt: in MANIFEST.sha256 but not" rm train/code/zstd.c.txt
expect_fault "eval/code/more.txt: in the folder but not" cp eval/code/zod.ts.txt eval/code/more.txt
expect_fault "characters with train/code/zstd.c.txt" leak_train_into_eval
echo "PASSED"
