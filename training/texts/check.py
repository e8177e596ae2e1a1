#!/usr/bin/env python3
"""Checks the texts: each is what MANIFEST.sha256 says, plain UTF-8, and no passage is in both train/ and eval/.

Usage: check.py [FOLDER], the folder holding MANIFEST.sha256, train/ and eval/; by default this script's own.
Prints what is wrong, one line each, and exits 1 if anything is.
"""

import hashlib
import pathlib
import sys
import unicodedata

# A shared run of more than this many characters (blanks collapsed) is one passage in both halves.
SHARED_RUN_CHARACTERS = 200
# Half of that, so that such a run holds a whole block of train/ cut at multiples of the block's length.
BLOCK_CHARACTERS = SHARED_RUN_CHARACTERS // 2

ALLOWED_CONTROLS = {"\n", "\t"}


def manifest(folder):
    """{relative path: sha256} as MANIFEST.sha256, a sha256sum file, has it."""
    lines = (folder / "MANIFEST.sha256").read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}


def text_faults(path, data):
    """What keeps `data` from being plain UTF-8 text with Unix line ends."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return [f"{path}: not UTF-8 at byte {error.start}"]
    faults = []
    controls = {c for c in set(text) if unicodedata.category(c) == "Cc"} - ALLOWED_CONTROLS
    if controls:
        faults.append(f"{path}: control characters {sorted(map(ascii, controls))}")
    if "\ufeff" in text or "\ufffd" in text:
        faults.append(f"{path}: a byte-order mark or a replacement character")
    if not text.endswith("\n"):
        faults.append(f"{path}: no newline at the end")
    return faults


def run_around(text, position, other, other_position):
    """(start, end) in `text` of the longest run equal to `other` that holds the block both have at these positions."""
    start, shift = position, other_position - position
    while start > 0 and start + shift > 0 and text[start - 1] == other[start + shift - 1]:
        start -= 1
    end = position + BLOCK_CHARACTERS
    while end < len(text) and end + shift < len(other) and text[end] == other[end + shift]:
        end += 1
    return start, end


def shared_runs(train, evaluation):
    """(train path, eval path, run) for runs longer than SHARED_RUN_CHARACTERS; texts are {path: collapsed text}."""
    blocks = {}
    for path, text in train.items():
        for start in range(0, len(text) - BLOCK_CHARACTERS + 1, BLOCK_CHARACTERS):
            blocks.setdefault(text[start : start + BLOCK_CHARACTERS], []).append((path, start))
    for path, text in evaluation.items():
        position = 0
        while position <= len(text) - BLOCK_CHARACTERS:
            places = blocks.get(text[position : position + BLOCK_CHARACTERS], [])
            runs = [(train_path, *run_around(text, position, train[train_path], start)) for train_path, start in places]
            train_path, start, end = max(runs, key=lambda run: run[2] - run[1], default=(None, position, position))
            if end - start > SHARED_RUN_CHARACTERS:
                yield train_path, path, text[start:end]
            position = max(position + 1, end)


def faults(folder):
    listed = manifest(folder)
    present = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for half in ("train", "eval")
        for path in sorted((folder / half).rglob("*"))
        if path.is_file()
    }
    for path in sorted(listed.keys() | present.keys()):
        if path not in present:
            yield f"{path}: in MANIFEST.sha256 but not in the folder"
        elif path not in listed:
            yield f"{path}: in the folder but not in MANIFEST.sha256"
        elif hashlib.sha256(present[path]).hexdigest() != listed[path]:
            yield f"{path}: its SHA-256 is not the one in MANIFEST.sha256"
    for path, data in present.items():
        yield from text_faults(path, data)
    collapsed = {path: " ".join(data.decode("utf-8", "replace").split()) for path, data in present.items()}
    halves = [{p: t for p, t in collapsed.items() if p.startswith(half + "/")} for half in ("train", "eval")]
    for train_path, eval_path, run in shared_runs(*halves):
        yield f"{eval_path}: shares {len(run)} characters with {train_path}: {run[:80]!r}..."


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent
    found = list(faults(folder))
    for fault in found:
        print(fault)
    print(f"{len(manifest(folder))} texts listed, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
