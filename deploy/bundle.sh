#!/usr/bin/env bash
# Packs bundle/: the programs, stripped, with every Debian library they need and the shipped hash files beside them.
# Runs on another x86-64 Linux with glibc >= 2.36 and the LibTorch wheels: bundle/run PROGRAM finds those of the python3
# on the PATH.
# usage: bundle.sh [FOLDER] [PROGRAM ...]    (default: bundle, bin/*)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-bundle}
shift || true
programs=("$@")
[ ${#programs[@]} -gt 0 ] || programs=(bin/*)

rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
# Left to the machine: glibc, the compiler's runtime, and what comes with LibTorch's wheels.
system='^(ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+)\.so'
for program in "${programs[@]}"; do
  install -m 755 "$(readlink -f "$program")" "$out/bin/$(basename "$program")"
  strip "$out/bin/$(basename "$program")"
  ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | while read -r library; do
    case $library in */torch/lib/* | */nvidia/*) continue ;; esac
    name=$(basename "$library")
    [[ $name =~ $system ]] || [ -e "$out/lib/$name" ] || install -m 644 "$library" "$out/lib/$name"
  done
done
find "$out/lib" -type f -exec strip --strip-unneeded {} +
# What --hash auto finds beside the programs' folder.
mkdir "$out/hashes"
find training/hashes -name '*.safetensors' -exec cp {} "$out/hashes" \;

cat >"$out/run" <<'RUN'
#!/usr/bin/env bash
# usage: run PROGRAM [ARGUMENT ...]
# SPOTLIGHT_SITE_PACKAGES names the folder that holds the torch and nvidia wheels; else python3 is asked.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
site=${SPOTLIGHT_SITE_PACKAGES:-$(python3 -c 'import importlib.util as u, os; print(os.path.dirname(os.path.dirname(u.find_spec("torch").origin)))')}
paths=$here/lib:$site/torch/lib
for folder in "$site"/nvidia/*/lib; do paths=$paths:$folder; done
export LD_LIBRARY_PATH=$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
program=$1
shift
exec "$here/bin/$program" "$@"
RUN
chmod +x "$out/run"
du -sh "$out" | awk '{print "bundle: " $2 ", " $1}'
