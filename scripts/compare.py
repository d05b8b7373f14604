#!/usr/bin/env python3
"""Compare builds of Mesh fairly: a stack of each on this machine, all at once, measured in alternating rounds.

    scripts/compare.py [--rounds N] [--jobs N] [--deep N] BEFORE=FOLDER AFTER=FOLDER...      FOLDER: the four programs of one build

Prints for each build the middle of its rounds: jobs per second and CPU seconds per 1,000 at 1,024 in flight, and the latency of a job
alone. Stacks that rest cost about 1 % of a core each. Other requirements (nats-server, Postgres) are found as `mesh dev` finds them:
run it as `found=$(scripts/deps.sh) && eval "$found" && scripts/compare.py …`.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

WARM_UP_JOBS = 300


class Stack:
    def __init__(self, name, programs, folder):
        self.name, self.mesh, self.folder = name, os.path.join(programs, "mesh"), os.path.join(folder, name)
        self.deep, self.alone = [], []
        env = dict(os.environ, MESH_BIN_DIR=programs, MESH_CONFIG_HOME=os.path.join(folder, name + ".config"))
        command = [self.mesh, "dev", "--agents", "2", "--random-ports", "--data-dir", self.folder, "-o", "json"]
        self.dev = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        if not any(json.loads(line).get("event") == "ready" for line in self.dev.stdout):
            sys.exit(f"{name}: mesh dev did not start; its logs are in {self.folder}/logs")

    def bench(self, *arguments):
        command = [self.mesh, "--context", os.path.join(self.folder, "contexts", "mesh.json"), "bench", *arguments, "-o", "json"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if run.returncode:
            sys.exit(f"{self.name}: {' '.join(command)} failed: {run.stdout}{run.stderr}")
        return json.loads(run.stdout)

    def stop(self):
        self.dev.send_signal(signal.SIGINT)
        self.dev.wait(timeout=30)


def row(name, runs, fields):
    cells = []
    for field, unit in fields:
        values = sorted(run[field] for run in runs)
        cells.append(f"{statistics.median(values):.2f} {unit} ({values[0]:.2f} to {values[-1]:.2f})")
    print(f"  {name:<12} {'   '.join(cells)}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("builds", nargs="+", metavar="NAME=FOLDER")
    arguments.add_argument("--rounds", type=int, default=6)
    arguments.add_argument("--jobs", type=int, default=200, help="jobs of one round, one at a time")
    arguments.add_argument("--deep", type=int, default=6000, help="jobs of one round at 1,024 in flight")
    given = arguments.parse_args()
    builds = [build.split("=", 1) for build in given.builds]
    if any(len(build) != 2 or not os.access(os.path.join(build[1], "mesh"), os.X_OK) for build in builds):
        arguments.error("each build is NAME=FOLDER, where FOLDER holds the programs")
    with tempfile.TemporaryDirectory(prefix="mesh-compare.") as folder:
        stacks = [Stack(name, os.path.abspath(programs), folder) for name, programs in builds]
        try:
            for stack in stacks:
                stack.bench("latency", "--jobs", str(WARM_UP_JOBS))
            for number in range(given.rounds):
                # Who was last is first the next time: what a round leaves behind hits both alike.
                for stack in stacks if number % 2 == 0 else stacks[::-1]:
                    stack.alone.append(stack.bench("latency", "--jobs", str(given.jobs)))
            for number in range(given.rounds):
                for stack in stacks if number % 2 == 0 else stacks[::-1]:
                    stack.deep.append(stack.bench("throughput", "--jobs", str(given.deep), "--in-flight", "1024"))
        finally:
            for stack in stacks:
                stack.stop()
    print(f"a job alone, {given.jobs} a round, middle of {given.rounds} rounds (lowest to highest), {time.strftime('%Y-%m-%d %H:%M')}")
    for stack in stacks:
        row(stack.name, stack.alone, [("p50_ms", "ms p50"), ("p99_ms", "ms p99"), ("cpu_s_per_1000", "CPU-s per 1,000")])
    print(f"1,024 in flight, {given.deep} jobs a round")
    for stack in stacks:
        row(stack.name, stack.deep, [("jobs_per_s", "jobs/s"), ("cpu_s_per_1000", "CPU-s per 1,000")])


if __name__ == "__main__":
    main()
