#!/usr/bin/env bash
# Jobs per second with one scheduler and with two, side by side: the same stack, the same jobs, one after the other, three times round.
#
#     scripts/bench_schedulers.sh [--out FILE.json]
#
# Once as they are: then all parts share the processors, and the scheduler is one of many. Once with few jobs in hand at once, so that the
# work mostly waits (for devices, the books, the hub) and a second scheduler has something to add. Prints the middle of the runs, and how
# often the schedulers asked the books about jobs that another one has.
#
# MESH_BIN_DIR      the folder of the built programs (otherwise bin/ of the clone)
# MESH_BENCH_JOBS   jobs of one run (10000)
# MESH_BENCH_FEW    jobs that a scheduler has in hand where the work is to wait (64)
# MESH_BENCH_KIND   echo, or embed, whose devices tell all schedulers of each job (echo)
set -Eeuo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/stack.sh"
cd "$root"

. scripts/bench_out.sh
jobs=${MESH_BENCH_JOBS:-10000} few=${MESH_BENCH_FEW:-64} kind=${MESH_BENCH_KIND:-echo}

say() { echo "bench-schedulers: $*" >&2; }

# run SCHEDULERS JOBS_MAX FILE: a stack of its own, warm, measured once.
run() {
    local name=$1-$2-$3
    say "$1 scheduler(s), at most $2 jobs in hand each, run $3"
    rm -rf "$here/data" "$here/config" "$here/home"
    export MESH_JOBS_MAX=$2
    start_stack --agents 2 --schedulers "$1"
    limited 300 mesh bench throughput --kind "$kind" --jobs 1000 --in-flight 1024 -o json </dev/null >/dev/null || fail 'the warm-up failed'
    limited 300 python3 scripts/bench.py around "$here/ready.json" "$dev" "$here/schedulers-$name.json" \
        mesh bench throughput --kind "$kind" --jobs "$jobs" --in-flight 1024 -o json </dev/null || fail "run $name failed"
    python3 scripts/bench_schedulers.py asked "$here/ready.json" >"$here/asked-$name.json"
    stop_stack
}

for round in 1 2 3; do
    for max in 8192 "$few"; do
        for schedulers in 1 2; do run "$schedulers" "$max" "$round"; done
    done
done
python3 scripts/bench_schedulers.py report "$here" --commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" ${out:+--out "$out"}
