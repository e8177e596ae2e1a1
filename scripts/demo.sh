#!/usr/bin/env bash
# Starts the server on free ports, streams an answer through the client, shows what the server measured, stops it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

model=$(tools/fetch_default_model.sh)
log=$(mktemp)
bin/spotlight-server --model "$model" --listen 127.0.0.1:0 --http 127.0.0.1:0 >/dev/null 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; rm -f "$log"' EXIT

say "server: $(basename "$model")"
port_of() { sed -nE "s/.*$1 on (http:\/\/)?127\.0\.0\.1:([0-9]+).*/\2/p" "$log" | head -n 1; }
for _ in $(seq 300); do
  grep -q 'ready' "$log" && break
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.1
done
grep -q 'ready' "$log" || { cat "$log" >&2; echo "the server was not ready after 30 s" >&2; exit 1; }
cat "$log"
grpc=127.0.0.1:$(port_of gRPC)
http=127.0.0.1:$(port_of HTTP)

prompt='In two sentences: why is the sky blue?'
chat=$(mktemp)
printf '[{"role": "user", "content": "%s"}]' "$prompt" >"$chat"
say "\$ spotlight generate --chat-file chat.json --temperature 0 --max-tokens 96     # $prompt"
bin/spotlight generate --server "$grpc" --chat-file "$chat" --temperature 0 --max-tokens 96
rm -f "$chat"

say "\$ curl http://$http/metrics     # a few of them"
python3 - "http://$http/metrics" <<'PY'
import sys, urllib.request
wanted = ("spotlight_generation_tokens_total", "spotlight_time_to_first_token_seconds_sum",
          "spotlight_inter_token_latency_seconds_sum", "spotlight_inter_token_latency_seconds_count", "spotlight_retrieval_kv_read_bytes_total",
          "spotlight_retrieval_kv_dense_equivalent_bytes_total", "spotlight_dense_steps_total")
for line in urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().splitlines():
    if line.startswith(wanted) and not line.endswith(" 0"):
        print(line)
PY

say "stopping"
kill -TERM "$server"
wait "$server"
trap - EXIT
rm -f "$log"
echo "server stopped cleanly. Next: 'make serve' here, then 'bin/spotlight chat' in another terminal."
