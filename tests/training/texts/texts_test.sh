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
  mkdir "$copy/train" "$copy/eval"
  cat training/texts/train/zstd.c.txt >"$copy/train/zstd.c.txt"
  cat training/texts/eval/zod.ts.txt >"$copy/eval/zod.ts.txt"
  grep -E 'train/zstd|eval/zod' training/texts/MANIFEST.sha256 >"$copy/MANIFEST.sha256"
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

append_byte() { printf "$1" >>eval/zod.ts.txt; }
leak_train_into_eval() { tail -c 400 train/zstd.c.txt >>eval/zod.ts.txt; }

expect_fault "eval/zod.ts.txt: its SHA-256" append_byte ' \n'
expect_fault "eval/zod.ts.txt: not UTF-8" append_byte '\377\n'
expect_fault "train/zstd.c.txt: in MANIFEST.sha256 but not" rm train/zstd.c.txt
expect_fault "eval/more.txt: in the folder but not" cp eval/zod.ts.txt eval/more.txt
expect_fault "characters with train/zstd.c.txt" leak_train_into_eval
echo "PASSED"
