#!/usr/bin/env bash
# Speed of a running stack, all parts on this machine: idle use, jobs per second, latency of a job alone, and CPU time by process.
#
#     scripts/bench.sh [--out FILE.json]
#
# Prints what was measured beside the floor for it, with the machine and the commands; ends with 1 if a floor is missed.
#
# MESH_BIN_DIR              the folder of the built programs (otherwise bin/ of the clone)
# MESH_BENCH_IDLE_SECONDS   how long the stack rests before its idle use is measured, and how long that is measured (60)
# MESH_BENCH_JOBS           jobs of one throughput run (10000)
set -Eeuo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/stack.sh"
cd "$root"

. scripts/bench_out.sh
idle=${MESH_BENCH_IDLE_SECONDS:-60} jobs=${MESH_BENCH_JOBS:-10000}

say() { echo "bench: $*" >&2; }

# measure FILE COMMAND...: runs it with the stack's CPU clocks read before and after.
measure() {
    local file=$1
    shift
    say "$*"
    limited 300 python3 scripts/bench.py around "$here/ready.json" "$dev" "$file" "$@" </dev/null || fail "it failed: $*"
}

say "mesh dev --agents 2 --random-ports -o json"
start_stack --agents 2
say "at rest for $idle s, then measured for $idle s"
sleep "$idle"
python3 scripts/bench.py idle "$here/ready.json" "$dev" "$idle" >"$here/idle.json"

# The job alone comes first: the host lets a virtual machine that has just been busy run slower for a while. Before it come others like
# it, because the first hundreds after a start find programs and tables that nobody has touched yet.
measure "$here/first.json" mesh bench latency --jobs 1000 -o json
# Five runs, apart: what else the host does comes in bursts.
for run in 1 2 3 4 5; do
    sleep 10
    measure "$here/latency-$run.json" mesh bench latency --jobs 300 -o json
done
measure "$here/warm.json" mesh bench throughput --jobs 2000 --in-flight 1024 -o json
for run in 1 2 3; do
    measure "$here/throughput-$run.json" mesh bench throughput --jobs "$jobs" --in-flight 1024 -o json
done
stop_stack

# A missed floor is no fault of the stack: its logs are not asked for.
python3 scripts/bench.py report "$here" --commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" ${out:+--out "$out"} || exit 1
