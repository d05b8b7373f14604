#!/usr/bin/env bash
# Speed of the books, with a nats-server and a Postgres of their own on this machine (fsync and synchronous_commit on).
#
#     scripts/bench_ledger.sh [--out FILE.json]
#
# Prints what was measured beside the floor for it, with the machine and the command; ends with 1 if a floor is missed.
#
# MESH_BENCH_PROJECT_FACTS   facts that are projected into Postgres as they come from the stream (200000)
# MESH_BENCH_REPLAY_FACTS    facts that are replayed into an empty schema (1000000)
# MESH_BENCH_HOLD_SECONDS    how long holds are asked for, 500 a second (20)
set -Eeuo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export PYTHONDONTWRITEBYTECODE=1

. scripts/bench_out.sh
here=$(mktemp -d "${TMPDIR:-/tmp}/mesh-bench-ledger.XXXXXX")
trap 'rm -rf "$here"' EXIT

command=(cargo test --release --workspace --locked --test speed -- --ignored --nocapture --test-threads=1 measure_)
echo "bench-ledger: ${command[*]}" >&2
status=0
"${command[@]}" >"$here/said.txt" 2>"$here/errors.txt" </dev/null || status=$?
((status == 0)) || { grep -v '^test \|^$' "$here/said.txt" "$here/errors.txt" | tail -n 40 >&2; }
python3 scripts/bench_ledger.py "$here/said.txt" --command "${command[*]}" --commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" ${out:+--out "$out"}
