#!/usr/bin/env bash
# Starts the server on free ports, streams answers through the client, the last one to a long prompt with and without
# sparse retrieval, shows what the server measured, stops it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

model=$(tools/fetch_default_model.sh)
log=$(mktemp)
bin/spotlight-server --model "$model" --quality-sample-every 8 --listen 127.0.0.1:0 --http 127.0.0.1:0 >/dev/null 2>"$log" &
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

# Most of a book with one odd sentence in it, and a question about that sentence at the end.
long=$(mktemp)
python3 - training/texts/eval/books/carroll_alice.txt >"$long" <<'PY'
import sys
text = open(sys.argv[1], encoding="utf-8").read()
book = text[: text.rindex("\n\n", 0, 22500)]
place = book.index("\n\n", 6000)
fact = "\n\nRemember this: the special magic number for the Cheshire Cat is 7421.\n"
print(book[:place] + fact + book[place:] + "\n\nThe special magic number for the Cheshire Cat is", end="")
PY
for retrieval in dense sparse; do
  say "\$ spotlight generate --prompt-file book.txt --temperature 0 --max-tokens 32 --retrieval $retrieval     # ... The special magic number for the Cheshire Cat is"
  bin/spotlight generate --server "$grpc" --prompt-file "$long" --temperature 0 --max-tokens 32 --retrieval "$retrieval"
done
rm -f "$long"

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
