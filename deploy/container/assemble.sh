#!/usr/bin/env bash
# Lays out what the image holds beside its base: /opt/spotlight with the portable bundle (programs, Debian's libraries, the
# shipped hash files) and the libraries of LibTorch and CUDA that are linked or loaded at run time; no Python, no
# compilers. Prints the size.
# usage: assemble.sh ROOT [PROGRAM ...]    (programs as for deploy/bundle.sh)
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$(realpath -m "$1")
shift
programs=("$@")
[ ${#programs[@]} -gt 0 ] || programs=(bin/spotlight-server bin/spotlight)
spotlight=$root/opt/spotlight

deploy/bundle.sh "$spotlight" "${programs[@]}" >/dev/null
rm "$spotlight/run"  # a shell script; the image has no shell, and its environment names the libraries
site=$(ldd "${programs[0]}" | sed -nE 's|.* => (/.*)/torch/lib/libtorch\.so .*|\1|p')
linked=$(ldd "${programs[0]}" | sed -nE "s|.* => ($site/.*) \(.*|\1|p" | xargs -d '\n' realpath)
# Loaded by name when they are needed.
loaded=$(find "$site/torch/lib" -name 'libtorch_cuda_linalg.so' -o -name 'libcaffe2_nvrtc.so'
         find "$site"/nvidia/*/lib -name 'libcudnn*.so.9' -o -name 'libcusolver.so.*' -o -name 'libnvrtc.so.*' \
           -o -name 'libnvrtc-builtins.so.*')
printf '%s\n' "$linked" "$loaded" | sort -u | while read -r library; do
  to=$spotlight/site/${library#"$(realpath "$site")/"}
  mkdir -p "$(dirname "$to")"
  cp -l "$library" "$to" 2>/dev/null || cp "$library" "$to"  # links cost no disk where the cache is on the same one
done
du -sh "$root" | cut -f1
