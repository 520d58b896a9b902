#!/usr/bin/env bash
# edge-kv end to end: what is imported is exported again, byte for byte.
set -euo pipefail
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
edge_kv() { "$program" --db "$folder/kv.db" "$@"; }

"$program" --help | grep -q 'usage: edge-kv'
edge_kv put greeting hello --metadata '{"v":3}'
[[ $(edge_kv get greeting) == hello ]]
printf 'a\0b\xff' | edge_kv put binary
edge_kv put short-lived soon --ttl 3600
status=0; edge_kv get none || status=$?
[[ $status == 3 ]]
status=0; edge_kv put bad value --ttl 5 2>"$folder/error" || status=$?
[[ $status == 1 ]]
grep -q 'Expiration TTL must be at least 60' "$folder/error"
status=0; edge_kv frob x 2>/dev/null || status=$?
[[ $status == 2 ]]
[[ $(edge_kv list) == $'binary\ngreeting\nshort-lived' ]]
[[ $(edge_kv list --prefix g) == greeting ]]

edge_kv export "$folder/all.ndjson" 2>"$folder/progress"
grep -q 'exported 3 entries' "$folder/progress"
"$program" --db "$folder/copy.db" import "$folder/all.ndjson"
"$program" --db "$folder/copy.db" export - 2>/dev/null | cmp - "$folder/all.ndjson"
printf 'a\0b\xff' | cmp - <("$program" --db "$folder/copy.db" get binary)
echo '{"name": "x"}' >"$folder/bad.ndjson"
status=0; edge_kv import "$folder/bad.ndjson" 2>"$folder/error" || status=$?
[[ $status == 1 ]]
grep -q 'line 1' "$folder/error"

edge_kv stats --json | python3 -c '
import json, sys
page = json.load(sys.stdin)
assert page["stored_entries"] == 3, page
assert page["namespace"]["tiers"]["origin"]["hits"] == 3, page'
edge_kv stats | grep -q '3 entries stored'
edge_kv delete greeting binary
[[ $(edge_kv list) == short-lived ]]
echo 'edge-kv: all as it should be'
