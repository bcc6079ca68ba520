#!/usr/bin/env bash
# Builds the images, runs the mesh in containers with two generators and two tokenizers, checks it
# from outside and from inside, and takes it down again. Keeps the images, for the next build.
# Arguments go to the end-to-end check's pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
project=infermesh-test
stages=(gateway tokenizer retriever cache generator)
scale=(--scale generator=2 --scale tokenizer=2)
start_limit_s=600

if docker compose version >/dev/null 2>&1; then
  compose=(docker compose -p "$project")
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose -p "$project")
else
  echo "test-compose: install docker compose (v2) or docker-compose (1.29)" >&2
  exit 2
fi
docker info >/dev/null 2>&1 || { echo "test-compose: no Docker daemon answers" >&2; exit 2; }

log=$(mktemp)
started=$SECONDS
say() { printf '[%4d s] %s\n' $((SECONDS - started)) "$*"; }
fail() { printf '[%4d s] FAILED: %s\n' $((SECONDS - started)) "$*" >&2; exit 1; }
# quietly COMMAND...: shows what the command printed only when it fails
quietly() { "$@" >"$log" 2>&1 || { tail -n 60 "$log" >&2; return 1; }; }

down() {
  local status=$?
  trap - EXIT
  if ((status)); then
    "${compose[@]}" ps || true
    "${compose[@]}" logs --no-color --tail 40 || true
  fi
  quietly "${compose[@]}" down -v --remove-orphans || status=1
  rm -f "$log"
  say "taken down"
  exit "$status"
}
trap down EXIT
trap 'exit 130' INT TERM

containers() { "${compose[@]}" ps -q "$1"; }
health() { docker inspect -f '{{if .State.Health}}{{.State.Health.Status}}{{end}}' "$1"; }

# until_true LIMIT_S COMMAND...: repeats the command each second; false when the time is over
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 1
  done
}

# scaled SERVICE COUNT: leaves everything else as it is
scaled() { "${compose[@]}" up -d --no-deps --no-recreate --scale "$1=$2" "$1"; }

healthy() {
  local id
  for id in $(containers "$1"); do [[ $(health "$id") == healthy ]] || return 1; done
}

# metric SERVICE INDEX NAME: the sum of a counter over its labels, read inside a replica
metric() {
  "${compose[@]}" exec -T --index="$2" "$1" python -c '
import sys, urllib.request
with urllib.request.urlopen("http://127.0.0.1:9100/metrics") as reply:
    lines = reply.read().decode().splitlines()
print(int(sum(float(l.rsplit(" ", 1)[1]) for l in lines if l.startswith(sys.argv[1]))))' "$3"
}

chat() {
  curl -fsS --max-time 120 "$INFERMESH_URL/v1/chat/completions" \
    -H "Authorization: Bearer $INFERMESH_API_KEY" -H 'Content-Type: application/json' \
    -d '{"model": "'"$MODEL"'", "max_tokens": 32, "cache": "no-store",
         "messages": [{"role": "user", "content": "Hello number '"$1"'!"}]}' >/dev/null
}

chats() {
  local pids=() number
  for number in $(seq "$1"); do
    chat "$number" &
    pids+=($!)
  done
  for number in "${pids[@]}"; do wait "$number" || return 1; done
}

INFERMESH_GATEWAY_PORT=$("$python" -c '
import socket
with socket.create_server(("127.0.0.1", 0)) as probe:
    print(probe.getsockname()[1])')
INFERMESH_GATEWAY_DEV_KEY=sk-$("$python" -c 'import secrets; print(secrets.token_hex(16))')
export INFERMESH_GATEWAY_PORT INFERMESH_GATEWAY_DEV_KEY
export INFERMESH_URL=http://127.0.0.1:$INFERMESH_GATEWAY_PORT
export INFERMESH_API_KEY=$INFERMESH_GATEWAY_DEV_KEY
# the model that the checks are written for, which no network has to bring
export MODELS=${MODELS:-./models} MODEL=${MODEL:-infermesh-tiny}

say "building with $("${compose[@]}" version --short)"
quietly "${compose[@]}" down -v --remove-orphans
quietly "${compose[@]}" build || fail "the images do not build"

say "starting"
quietly timeout "$start_limit_s" "${compose[@]}" up -d "${scale[@]}" || fail "up"
until_true "$start_limit_s" healthy gateway || fail "the gateway is not healthy"
say "healthy"

for service in "${stages[@]}" nats redis; do
  wanted=1
  [[ $service == generator || $service == tokenizer ]] && wanted=2
  ids=($(containers "$service"))
  ((${#ids[@]} == wanted)) || fail "$service has ${#ids[@]} containers, not $wanted"
  for id in "${ids[@]}"; do
    users=$(docker top "$id" -eo pid,uid | awk 'NR > 1 {print $2}' | sort -u | xargs)
    [[ $users == 10001 ]] || fail "$service runs as the users $users"
  done
  image=$(docker inspect -f '{{.Image}}' "${ids[0]}")
  say "$service: $wanted x $(docker inspect -f '{{.Size}}' "$image" | numfmt --to=si)B, user $users"
done
"${compose[@]}" exec -T gateway python -c '
import importlib.util, sys
sys.exit(importlib.util.find_spec("torch") is not None)' || fail "torch is in the gateway's image"
for service in "${stages[@]}"; do
  image=$(docker inspect -f '{{.Image}}' "$(containers "$service" | head -n 1)")
  weights=$(docker run --rm --user 0 --network none --entrypoint find "$image" / -xdev -name '*.safetensors')
  [[ -z $weights ]] || fail "weights in the image of $service: $weights"
done
published=$(docker ps --filter "label=com.docker.compose.project=$project" --format '{{.Ports}}' |
  grep -o '[^ ,]*->' | grep -v '^127\.0\.0\.1:' || true)
[[ -z $published ]] || fail "published beyond loopback: $published"
for index in 1 2; do
  level=$("${compose[@]}" exec -T --index="$index" generator python -c '
import re, urllib.request
with urllib.request.urlopen("http://127.0.0.1:9100/metrics") as reply:
    text = reply.read().decode()
print(re.search(r"infermesh_generator_cpu_level\{(.*?)\}", text)[1])')
  [[ $level != *torch* ]] || fail "no kernel of ours serves in generator $index: $level"
  say "generator $index computes with $level"
done
say "images: no torch in the gateway, no weights in any; ports on loopback"

"$python" -m tests.e2e.check "$@" || fail "the end-to-end check"
say "end-to-end check passed"

speed=$("$python" -m tests.e2e.container_speed "$model") || fail "slower than outside: $speed"
say "$speed"

chats 16 || fail "sixteen requests at once"
for index in 1 2; do
  jobs=$(metric generator "$index" infermesh_generator_jobs_total)
  calls=$(metric tokenizer "$index" infermesh_rpc_server_seconds_count)
  say "generator $index had $jobs jobs, tokenizer $index had $calls calls"
  ((jobs > 0 && calls > 0)) || fail "replica $index got no work"
done

quietly scaled tokenizer 1 || fail "scaling down"
chats 4 || fail "requests after a tokenizer left"
quietly scaled tokenizer 3 || fail "scaling up"
until_true 60 healthy tokenizer || fail "three tokenizers are not healthy"
say "requests go on while the tokenizer is scaled to one and to three"

refused() { "${compose[@]}" logs --no-color retriever 2>&1 | grep 'embedded store has one writer' >/dev/null; }
# in the background: waiting for a replica that never gets healthy would take its whole start time
scaled retriever 2 >/dev/null 2>&1 &
until_true 120 refused || fail "a second retriever was not refused"
wait $! || true
chat 1 || fail "a request while a second retriever is refused"
say "a second retriever is refused: $("${compose[@]}" logs --no-color retriever 2>&1 |
  grep -o 'the embedded store has one writer[^"\\]*' | head -n 1)"
quietly scaled retriever 1 || fail "one retriever"

ids=()
for service in "${stages[@]}"; do ids+=($(containers "$service")); done
quietly "${compose[@]}" stop || fail "stop"
for id in "${ids[@]}"; do
  state=$(docker inspect -f '{{.Name}} {{.State.ExitCode}} {{.State.OOMKilled}}' "$id")
  [[ $state == *" 0 false" ]] || fail "ended badly (exit code, out of memory): $state"
done
say "stopped: every service drained and ended with 0"
