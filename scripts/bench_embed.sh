#!/usr/bin/env bash
# Embeddings of 1,000 mixed texts: one job of a running stack, from command line to vectors, in turns with sentence-transformers.
#
#     scripts/bench_embed.sh [--out FILE.json]
#
# Same texts, same machine, same minutes; both loaded and warm. The job's time is that of the whole command: submission, hold,
# auction, computation, signed receipt, result fetched and checked. Ends with 1 if that is slower. The first run installs
# sentence-transformers into the cache folder (6 GB).
#
# MESH_BIN_DIR         the folder of the built programs (otherwise bin/ of the clone)
# MESH_MODEL_DIR       the folder of all-MiniLM-L6-v2
# MESH_BENCH_ROUNDS    rounds, of which the median counts (3)
set -Eeuo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/stack.sh"
cd "$root"

. scripts/bench_out.sh

python=$(scripts/bench_venv.sh)
model=${MESH_MODEL_DIR:-$(scripts/model.sh)}
python3 scripts/bench_embed.py --write "$here/texts.jsonl"

echo "bench_embed: mesh dev --agents 1 --random-ports -o json" >&2
start_stack --agents 1
export MESH_BENCH_READY=$here/ready.json MESH_BENCH_DEV=$dev
# Enough texts that the model is loaded on every core and has run.
head -n 256 "$here/texts.jsonl" >"$here/warm.jsonl"
limited 300 scripts/bench_embed_job.py "$here/warm.jsonl" >/dev/null || fail 'the first job failed'

echo "bench_embed: in turns, ${MESH_BENCH_ROUNDS:-3} times: the reference, and mesh job run embed --file texts.jsonl --max-mana 1000 -o json" >&2
limited 1800 "$python" scripts/bench_embed.py "$model" --rounds "${MESH_BENCH_ROUNDS:-3}" --against scripts/bench_embed_job.py \
    >"$here/both.json" || fail 'the comparison failed'
stop_stack

# The engine alone, in one process, for comparison.
alone=null
if [[ -n ${MESH_BIN_DIR:-} ]] && command -v cargo >/dev/null 2>&1 &&
    cargo build --quiet --release --workspace --locked --example embed_bench >&2; then
    alone=$("$MESH_BIN_DIR/examples/embed_bench" "$here/texts.jsonl") || alone=null
fi

python3 - "$here/both.json" "$alone" "$out" <<'END'
import json, os, sys
with open(sys.argv[1], encoding="utf-8") as file:
    both = json.load(file)
both["engine_alone"] = json.loads(sys.argv[2])
def line(name, numbers):
    print(f"  {name:<34} {numbers['seconds']:7.2f} s  {numbers['cpu_seconds']:7.2f} CPU-s  {numbers['texts_per_s']:7.1f} texts/s")
print(f"{both['mesh']['texts']} texts, {os.cpu_count()} cores")
line("sentence-transformers", both["reference"])
line("one mesh job, end to end", both["mesh"])
if both["engine_alone"]:
    line("the engine alone, in one process", both["engine_alone"])
good = both["times_faster"] >= 1
print(f"  {'OK' if good else 'MISSED'}: {both['times_faster']} times as fast (floor: 1), {both['times_less_cpu']} times less CPU")
if sys.argv[3]:
    with open(sys.argv[3], "w", encoding="utf-8") as file:
        json.dump(both, file, indent=1)
sys.exit(0 if good else 1)
END
