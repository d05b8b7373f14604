#!/usr/bin/env python3
"""Time one embed job of a running stack, from command line to vectors: bench_embed_job.py FILE.jsonl

Prints what scripts/bench_embed.py --against expects: texts, seconds, cpu_seconds, texts_per_s. CPU time is that of the whole
stack (MESH_BENCH_READY: its ready line, MESH_BENCH_DEV: process id of mesh dev) and of the command.
"""
import json
import os
import sys
import tempfile

import bench


def main():
    path = sys.argv[1]
    with open(path, encoding="utf-8") as file:
        texts = sum(1 for line in file if line.strip())
    with tempfile.TemporaryDirectory() as folder:
        result_path = os.path.join(folder, "result.json")
        # To a file, as people do; this process does not read the vectors while the clock runs.
        command = ["sh", "-c", 'mesh job run embed --file "$0" --max-mana 1000 --timeout 10m -q -o json >"$1" && echo 1', path, result_path]
        ran = bench.around(bench.load(os.environ["MESH_BENCH_READY"]), int(os.environ["MESH_BENCH_DEV"]), command)
        result = bench.load(result_path)["result"]
    if len(result["vectors"]) != texts or any(len(vector) != result["dims"] for vector in result["vectors"]):
        sys.exit(f"{texts} texts gave {len(result['vectors'])} vectors")
    cpu = sum(ran["cpu_s_by_process"].values())
    print(json.dumps({"texts": texts, "seconds": ran["wall_s"], "cpu_seconds": round(cpu, 3), "texts_per_s": round(texts / ran["wall_s"], 1)}))


if __name__ == "__main__":
    main()
