#!/usr/bin/env python3
"""What a stack's processes are and what they use, from /proc (Linux) or ps (elsewhere, without memory shared fairly).

    processes.py tree PID...       each of them and all below, one a line: pid, a tab, the command line
    processes.py running PID...    those of them that still run; exit code 1 where there is one
    processes.py naming FOLDER     processes whose command line, folder or environment names FOLDER; exit code 1 where there is one
"""
import os
import subprocess
import sys

TICKS = os.sysconf("SC_CLK_TCK")
PROC = os.path.isdir("/proc/self")


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def all_processes():
    """pid -> (parent, state, command line, seconds of CPU with those of ended children)."""
    if not PROC:
        listed = subprocess.run(["ps", "-axo", "pid=,ppid=,stat=,time=,command="], stdout=subprocess.PIPE, check=True).stdout.decode()
        rows = (line.split(None, 4) for line in listed.splitlines())
        return {int(r[0]): (int(r[1]), r[2][0], r[4] if len(r) > 4 else "", clock(r[3])) for r in rows}
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        stat = read(f"/proc/{name}/stat").decode(errors="replace")
        if ")" not in stat:
            continue
        # The name in brackets may hold blanks; state and parent are the 1st and 2nd field after it, the four clocks the 12th to 15th.
        short, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 1 :].split()
        command = read(f"/proc/{name}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip() or f"[{short}]"
        found[int(name)] = (int(fields[1]), fields[0], command, sum(map(int, fields[11:15])) / TICKS)
    return found


def clock(text):
    """Seconds of ps' [[days-]hours:]minutes:seconds."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)


def tree(roots, processes=None):
    """The roots that run, and all processes below them."""
    processes = all_processes() if processes is None else processes
    found, more = set(), {pid for pid in roots if pid in processes}
    while more:
        found |= more
        more = {pid for pid, (parent, *_) in processes.items() if parent in found} - found
    return {pid: processes[pid] for pid in sorted(found) if processes[pid][1] not in "ZX"}


def memory(pid):
    """Bytes of memory; what is shared is shared out among those who share it, where the system tells."""
    for line in read(f"/proc/{pid}/smaps_rollup").decode().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    fields = read(f"/proc/{pid}/statm").split()
    if fields:
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    listed = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], stdout=subprocess.PIPE, check=False).stdout.split()
    return int(listed[0]) * 1024 if listed else 0


def naming(folder):
    mine, parent, found = os.getpid(), os.getppid(), {}
    for pid, (_, state, command, _) in all_processes().items():
        if pid in (mine, parent) or state in "ZX":
            continue
        words = command if not PROC else command + read(f"/proc/{pid}/environ").decode(errors="replace")
        try:
            words += os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            pass
        if folder in words:
            found[pid] = command
    return found


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("tree", "running", "naming"):
        sys.exit(__doc__)
    what, words = sys.argv[1], sys.argv[2:]
    if what == "naming":
        found = naming(words[0])
    elif what == "tree":
        found = {pid: command for pid, (_, _, command, _) in tree(map(int, words)).items()}
    else:
        processes = all_processes()
        found = {pid: processes[pid][2] for pid in map(int, words) if pid in processes and processes[pid][1] not in "ZX"}
    for pid, command in found.items():
        print(f"{pid}\t{command}")
    sys.exit(1 if found and what != "tree" else 0)


if __name__ == "__main__":
    main()
