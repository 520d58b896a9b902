#!/usr/bin/env bash
# flights_bad_input_test.sh FLIGHTS_PROGRAM FLIGHTS_FOLDER - whatever is wrong, the server says
# so in one line and ends with status 1; it neither crashes nor hangs.
set -uo pipefail
flights=$1 folder=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0

# refused NAME PATTERN ARGUMENT... : `flights serve` must end with status 1 and exactly one line
# on stderr, which matches PATTERN.
refused() {
  local name=$1 pattern=$2 status=0
  shift 2
  timeout 60 "$flights" serve --port 0 --page "$folder/page" "$@" \
    >"$scratch/out" 2>"$scratch/err" </dev/null || status=$?
  if ((status != 1)) || (($(wc -l <"$scratch/err") != 1)) || ! grep -qE "$pattern" "$scratch/err"; then
    echo "FAILED $name: status $status, stderr:"
    cat "$scratch/err"
    failures=$((failures + 1))
  else
    echo "ok $name: $(cat "$scratch/err")"
  fi
}

model=$folder/tiny/edge-tiny-flights.gguf
refused "a missing model" "ai.model.*missing.gguf" --data "$scratch/a" --model "$scratch/missing.gguf"
head -c 5000 "$model" >"$scratch/short.gguf"
refused "a truncated model" "ai.model.*short.gguf" --data "$scratch/a" --model "$scratch/short.gguf"
{ head -c 8 "$model"; head -c 16 /dev/zero | tr '\0' '\377'; tail -c +25 "$model"; } >"$scratch/lying.gguf"
refused "a model that lies about its counts" "ai.model.*lying.gguf" --data "$scratch/a" --model "$scratch/lying.gguf"
head -c 5000 /dev/urandom >"$scratch/noise.gguf"
refused "a model that is none" "ai.model.*noise.gguf" --data "$scratch/a" --model "$scratch/noise.gguf"
refused "a missing page" "nowhere/index.html" --data "$scratch/b" --page "$scratch/nowhere"
echo "a file" >"$scratch/file"
refused "a data folder that is a file" "$scratch/file" --data "$scratch/file"

# A port that another server holds.
exec 3< <(exec "$flights" serve --port 0 --page "$folder/page" --data "$scratch/c" 2>/dev/null)
server=$!
read -r line <&3 || { echo "FAILED: the first server ended"; exit 1; }
port=${line##*:}
refused "a port in use" "listen.http.*$port" --data "$scratch/d" --port "$port"
refused "a data folder in use" "in use|locked" --data "$scratch/c"
kill "$server"
wait "$server" || { echo "FAILED: SIGTERM gave status $?"; failures=$((failures + 1)); }

# A folder that cannot be written, for whom permissions count.
if ((EUID != 0)); then
  mkdir "$scratch/locked" && chmod 555 "$scratch/locked"
  refused "a read-only folder" "locked" --data "$scratch/locked"
elif mkdir "$scratch/full" && mount -t tmpfs -o size=256k tmpfs "$scratch/full" 2>/dev/null; then
  refused "a full disk" "full" --data "$scratch/full"
  mount -o remount,ro "$scratch/full"
  refused "a read-only folder" "full" --data "$scratch/full"
  umount "$scratch/full"
fi
((failures == 0))
