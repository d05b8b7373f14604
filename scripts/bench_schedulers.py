#!/usr/bin/env python3
"""One scheduler beside two; scripts/bench_schedulers.sh calls this.

    bench_schedulers.py asked READY.json           how many jobs of others the schedulers of a running stack asked the books about, as JSON
    bench_schedulers.py report FOLDER [--out FILE] reads schedulers-COUNT-IN_HAND-ROUND.json and asked-….json there; prints both side by side
"""
import argparse
import json
import os
import statistics
import urllib.request

import bench

ASKED = "mesh_other_jobs_asked_total"


def asked(ready):
    total = 0
    for process in ready["processes"]:
        if process["role"] != "scheduler":
            continue
        with urllib.request.urlopen(process["http"] + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        total += sum(float(line.split()[-1]) for line in lines if line.startswith(ASKED))
    return {"asked": int(total)}


def report(folder, commit, out):
    runs = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith("schedulers-"):
            count, in_hand, _ = name.removeprefix("schedulers-").removesuffix(".json").split("-")
            run = bench.load(f"{folder}/{name}")
            run["asked"] = bench.load(f"{folder}/{name.replace('schedulers-', 'asked-')}")["asked"]
            runs.setdefault((int(in_hand), int(count)), []).append(run)
    host = bench.machine()
    print(f"machine   {host['cores']} cores, {host['model']}, {host['memory_gb']} GB, {host['system']}, load {host['load'][0]}")
    table = []
    for (in_hand, count), some in sorted(runs.items(), reverse=True):
        said = [run["said"] for run in some]
        row = {"schedulers": count, "in_hand": in_hand, "runs": [round(one["jobs_per_s"]) for one in said]}
        for key in ("jobs_per_s", "cpu_s_per_1000", "p50_ms", "p99_ms"):
            row[key] = round(statistics.median(one[key] for one in said), 3)
        row["asked_per_1000"] = round(1000 * sum(run["asked"] for run in some) / sum(one["jobs"] for one in said), 1)
        table.append(row)
    table.sort(key=lambda row: (-row["in_hand"], row["schedulers"]))
    print(f"$ {next(iter(runs.values()))[0]['command']}")
    print(f"{'schedulers':>10} {'in hand each':>13} {'jobs/s':>8} {'CPU-s/1,000':>12} {'p50 ms':>8} {'p99 ms':>8} {'asked/1,000':>12}  runs")
    for row in table:
        print(
            f"{row['schedulers']:>10} {row['in_hand']:>13,} {row['jobs_per_s']:>8.0f} {row['cpu_s_per_1000']:>12.3f} {row['p50_ms']:>8.0f} "
            f"{row['p99_ms']:>8.0f} {row['asked_per_1000']:>12.1f}  {', '.join(str(run) for run in row['runs'])}"
        )
    for in_hand in sorted({row["in_hand"] for row in table}, reverse=True):
        one, two = (next(row["jobs_per_s"] for row in table if (row["in_hand"], row["schedulers"]) == (in_hand, n)) for n in (1, 2))
        print(f"at most {in_hand:,} in hand: two schedulers do {two / one:.2f} times what one does")
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump({"commit": commit, "machine": host, "measured": table, "runs": [run for some in runs.values() for run in some]}, file, indent=1)
            file.write("\n")
        print(f"\nwritten to {out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("asked").add_argument("ready")
    one = what.add_parser("report")
    one.add_argument("folder"), one.add_argument("--commit", default="unknown"), one.add_argument("--out")
    args = parser.parse_args()
    if args.what == "asked":
        print(json.dumps(asked(bench.load(args.ready))))
    else:
        report(args.folder, args.commit, args.out)


if __name__ == "__main__":
    main()
