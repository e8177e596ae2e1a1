#!/usr/bin/env bash
# Builds and packs gpu_bundle/: every test tagged gpu, the benchmarks of a GPU and what a random load needs, with their
# data. It runs on a machine that has a GPU and the LibTorch wheels, but no compiler: see tests/gpu/README.md.
# usage: bundle.sh [--default-model] [--no-archive] [NAME ...] [-NAME ...]
#   NAME             of a target: only those named;  -NAME: all but those. What a test runs comes with it.
#   --default-model  adds the default model (271 MB), which some cases of devices_cuda_test compare, and its hash;
#                    not to the archive, which it would take 10 minutes to pack
#   --no-archive     leaves out gpu_bundle.tar.xz, a tenth of the size or less, which takes a minute or two
set -euo pipefail
cd "$(dirname "$0")/../.."
out=gpu_bundle
programs=(
  //benchmarks/engine:decode_steps //benchmarks/engine:prefill_steps //benchmarks/kernels:kernels
  //benchmarks/kernels:linear_layers //engine/model:make_untrained_hash //server:spotlight-server //tests/soak:soak_test
)

fail() { echo "bundle.sh: $*" >&2; exit 2; }
query() { "${BAZEL:-bazel}" query --noshow_progress --ui_event_filters=-info "$@"; }
path() { local label=${1#//}; echo "${label/://}"; }
# One element for each line, none of no lines.
lines() { [ -z "$2" ] || mapfile -t "$1" <<<"$2"; }

only=() left_out=() default_model=0 archive=1
for argument in "$@"; do
  case $argument in
    --default-model) default_model=1 ;;
    --no-archive) archive=0 ;;
    --*) fail "$argument is no option" ;;
    -*) left_out+=("${argument#-}") ;;
    *) only+=("$argument") ;;
  esac
done

listed=$(query 'kind(".*_test rule", attr(tags, "[\[ ]gpu[,\]]", //...))')
tests=()
lines tests "$listed"
[ ${#tests[@]} -gt 0 ] || fail "no test is tagged gpu"
chosen=()
for target in "${tests[@]}" "${programs[@]}"; do
  name=${target##*:}
  [[ " ${left_out[*]-} " != *" $name "* ]] || continue
  [ ${#only[@]} -eq 0 ] || [[ " ${only[*]} " == *" $name "* ]] || continue
  chosen+=("$target")
done
for name in "${only[@]}" "${left_out[@]}"; do
  printf '%s\n' "${tests[@]}" "${programs[@]}" | grep -q ":$name$" || fail "no GPU test or program is called $name"
done
[ ${#chosen[@]} -gt 0 ] || fail "nothing is left to pack"

set="set(${chosen[*]})"
listed=$(query "kind('cc_.* rule', $set union labels(data, $set))")
binaries=()
lines binaries "$listed"
listed=$(query "kind('sh_test rule', $set)")
scripts=()
lines scripts "$listed"
listed=$(query "let data = labels(data, $set) in
  kind('source file', \$data union labels(srcs, kind(filegroup, \$data) union kind(sh_test, $set)))")
data=()
lines data "$listed"

"${BAZEL:-bazel}" build "${binaries[@]}"
paths=()
for target in "${binaries[@]}"; do paths+=("bazel-bin/$(path "$target")"); done
deploy/bundle.sh "$out" "${paths[@]}" >/dev/null
# Data and programs lie where the tests look for them from the repository's root.
for file in "${data[@]}"; do
  # The shipped hash file is the default model's.
  [[ $file == //training/hashes:* ]] && continue
  cp --parents "$(path "$file")" "$out"
done
[ $default_model = 1 ] || rm -r "$out/hashes"
mapfile -t benchmark_files < <(git ls-files benchmarks/{engine,kernels}/'*.py' 'benchmarks/engine/*.json')
cp --parents "${benchmark_files[@]}" "$out"
for target in "${binaries[@]}"; do
  case $target in
    //benchmarks/* | //server:*)
      mkdir -p "$out/$(dirname "$(path "$target")")"
      ln -sr "$out/bin/${target##*:}" "$out/$(path "$target")"
      ;;
  esac
done
for target in "${scripts[@]}"; do
  script=$(query "labels(srcs, $target)")
  arguments=$(query --output=build "$target" | sed -n 's/^  args = \[\(.*\)\],$/\1/p' | tr -d '",')
  printf '#!/usr/bin/env bash\nexec bash %s %s\n' "$(path "$script")" "$arguments" >"$out/bin/${target##*:}"
  chmod +x "$out/bin/${target##*:}"
done

# What run_tests runs, and how it judges it.
for target in "${chosen[@]}"; do
  if [[ " ${scripts[*]-} " == *" $target "* ]]; then
    echo "script ${target##*:}"
  elif [[ " ${tests[*]} " == *" $target "* ]]; then
    echo "gtest ${target##*:}"
  fi
done | sort -k2 >"$out/tests.txt"
install -m 755 tests/gpu/run_tests.sh "$out/run_tests"
install -m 755 tests/gpu/run_load.sh "$out/run_load"
install -m 755 tests/gpu/checked_server.sh "$out/checked_server"
if [ $default_model = 1 ]; then
  folder=$(tools/fetch_default_model.sh)
  mkdir -p "$out/cache/spotlight/models"
  cp -rL "$folder" "$out/cache/spotlight/models"
fi

megabytes=$(du -sm --exclude=cache "$out" | cut -f1)
echo "$out: $megabytes MB, $(wc -l <"$out/tests.txt") tests"
if [ $archive = 1 ]; then
  # A dictionary that spans the bundle: the same kernels lie in programs far from each other. Packing takes seven times
  # as much memory, unpacking once.
  dictionary=$((megabytes < 768 ? megabytes + 1 : 768))
  tar --exclude="$out/cache" -cf - "$out" | xz -T1 --lzma2="preset=3,dict=${dictionary}MiB" >"$out.tar.xz"
  echo "$out.tar.xz: $(du -m "$out.tar.xz" | cut -f1) MB$([ $default_model = 0 ] || echo ", without $out/cache")"
fi
