#!/usr/bin/env python3
"""Measure a running stack and judge it; scripts/bench.sh calls this.

    bench.py idle READY.json PID SECONDS               CPU and memory of a stack that does nothing, as JSON
    bench.py around READY.json PID OUT.json COMMAND…   what COMMAND prints (one JSON object), with the stack's CPU time beside it
    bench.py report FOLDER [--out FILE]                reads idle.json, throughput-*.json and latency-*.json there; the middle of the runs counts;
                                                       1 if a floor is missed

PID is mesh dev's. CPU time is read from the kernel's clocks of all its processes, ended children included.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import processes

# What must hold on two cores with all parts on one machine: name, unit, floor, and whether more is better.
FLOORS = [
    ("jobs_per_s", "jobs/s", 1500, True),
    ("cpu_s_per_1000", "CPU-s per 1,000 jobs", 1.0, False),
    ("p50_ms", "ms, a job alone, median", 6, False),
    ("p99_ms", "ms, a job alone, 99 of 100", 25, False),
    ("idle_cpu_percent", "% of one core, idle", 3, False),
    ("idle_mb", "MB, idle", 600, False),
]


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def label(role, name):
    return name if role in name else f"{role} {name}"


def stack(ready, dev):
    """Every process of the stack, with a name for people: those that mesh dev named, and what they started."""
    everything = processes.all_processes()
    named = {process["pid"]: label(process["role"], process["name"]) for process in ready["processes"]}
    named[dev] = "mesh dev"
    found = {}
    for root, name in named.items():
        for pid, (parent, _, command, cpu) in processes.tree([root], everything).items():
            # A child that has its own name counts under it, not under its parent's.
            if pid == root or pid not in named:
                while pid != root and parent not in named and parent in everything:
                    parent = everything[parent][0]
                if pid == root or named.get(parent) == name:
                    found[pid] = (name, command, cpu)
    return found


def by_name(found):
    sums = {}
    for name, _, cpu in found.values():
        sums[name] = sums.get(name, 0) + cpu
    return sums


def difference(before, after):
    return {name: round(after[name] - before.get(name, 0), 3) for name in sorted(after)}


def idle(ready, dev, seconds):
    before, start = by_name(stack(ready, dev)), time.monotonic()
    time.sleep(seconds)
    found, took = stack(ready, dev), time.monotonic() - start
    used = difference(before, by_name(found))
    sizes = {}
    for pid, (name, *_) in found.items():
        sizes[name] = sizes.get(name, 0) + processes.memory(pid)
    return {
        "seconds": round(took, 1),
        "processes": len(found),
        "idle_cpu_percent": round(100 * sum(used.values()) / took, 2),
        "idle_mb": round(sum(sizes.values()) / 1e6, 1),
        "cpu_percent_by_process": {name: round(100 * cpu / took, 2) for name, cpu in used.items()},
        "mb_by_process": {name: round(size / 1e6, 1) for name, size in sorted(sizes.items())},
    }


def stolen():
    """Processor time that the host gave to others, in seconds; 0 where the system does not say."""
    fields = processes.read("/proc/stat").decode().split("\n", 1)[0].split() if os.path.exists("/proc/stat") else []
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


def around(ready, dev, command):
    before, start, lost = by_name(stack(ready, dev)), time.monotonic(), stolen()
    children = os.times()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    took, ended = time.monotonic() - start, os.times()
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout.decode()[-2000:]}")
    used = difference(before, by_name(stack(ready, dev)))
    steal = round(100 * (stolen() - lost) / took / (os.cpu_count() or 1), 1)
    used["submitter"] = round(ended.children_user + ended.children_system - children.children_user - children.children_system, 3)
    return {"command": " ".join(command), "wall_s": round(took, 3), "steal_percent": steal, "cpu_s_by_process": used, "said": json.loads(done.stdout)}


def machine():
    model = next((line.split(":", 1)[1].strip() for line in processes.read("/proc/cpuinfo").decode().splitlines() if line.startswith("model name")), platform.processor())
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "model": model or platform.machine(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def report(folder, commit, out):
    rest = load(f"{folder}/idle.json")
    runs, alone = ([load(f"{folder}/{name}") for name in sorted(os.listdir(folder)) if name.startswith(kind)] for kind in ("throughput-", "latency-"))
    said = [run["said"] for run in runs]
    middle = sorted(runs, key=lambda run: run["said"]["jobs_per_s"])[len(runs) // 2]
    measured = {
        "jobs_per_s": statistics.median(run["jobs_per_s"] for run in said),
        "cpu_s_per_1000": statistics.median(run["cpu_s_per_1000"] for run in said),
        "p50_ms": statistics.median(run["said"]["p50_ms"] for run in alone),
        "p99_ms": statistics.median(run["said"]["p99_ms"] for run in alone),
        "idle_cpu_percent": rest["idle_cpu_percent"],
        "idle_mb": rest["idle_mb"],
    }
    missed = [name for name, _, floor, more in FLOORS if (measured[name] < floor if more else measured[name] > floor)]
    host = machine()

    print(f"machine   {host['cores']} cores, {host['model']}, {host['memory_gb']} GB, {host['system']}, load {host['load'][0]}")
    for run in (*runs, *alone):
        numbers = run["said"]
        text = ", ".join(f"{key} {round(value, 3)}" for key, value in numbers.items() if isinstance(value, (int, float)) and not isinstance(value, bool))
        print(f"$ {run['command']}\n  {text}; the host took {run['steal_percent']} % of the processors")
    per_1000 = {name: cpu * 1000 / middle["said"]["jobs"] for name, cpu in middle["cpu_s_by_process"].items()} if middle["said"].get("jobs") else {}
    if per_1000:
        print("CPU-s per 1,000 jobs, by process, from outside (warm-up included):")
        for name, cpu in sorted(per_1000.items(), key=lambda item: -item[1]):
            print(f"  {cpu:6.3f}  {name}")
        print(f"  {sum(per_1000.values()):6.3f}  sum")
    print(f"idle for {rest['seconds']} s, {rest['processes']} processes; % of a core and MB by process:")
    for name, percent in rest["cpu_percent_by_process"].items():
        print(f"  {percent:5.2f} %  {rest['mb_by_process'].get(name, 0):6.1f} MB  {name}")
    print()
    for name, unit, floor, more in FLOORS:
        verdict = "MISSED" if name in missed else "OK"
        print(f"  {verdict:6}  {measured[name]:10.2f}  {unit} (floor: {'at least' if more else 'at most'} {floor:,})")
    if out:
        whole = {"commit": commit, "machine": host, "measured": measured, "missed": missed, "idle": rest, "throughput": runs, "latency": alone}
        with open(out, "w", encoding="utf-8") as file:
            json.dump(whole, file, indent=1)
            file.write("\n")
        print(f"\nwritten to {out}")
    sys.exit(1 if missed else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("idle")
    one.add_argument("ready"), one.add_argument("dev", type=int), one.add_argument("seconds", type=float)
    one = what.add_parser("around")
    one.add_argument("ready"), one.add_argument("dev", type=int), one.add_argument("out"), one.add_argument("command", nargs=argparse.REMAINDER)
    one = what.add_parser("report")
    one.add_argument("folder"), one.add_argument("--commit", default="unknown"), one.add_argument("--out")
    args = parser.parse_args()
    if args.what == "idle":
        print(json.dumps(idle(load(args.ready), args.dev, args.seconds)))
    elif args.what == "around":
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(around(load(args.ready), args.dev, args.command), file)
    else:
        report(args.folder, args.commit, args.out)


if __name__ == "__main__":
    main()
