#!/usr/bin/env python3
"""Judge what the ledger's measurements said; scripts/bench_ledger.sh calls this.

    bench_ledger.py SAID.txt [--command TEXT] [--commit ID] [--out FILE]      1 if a floor is missed or a measurement is not there
"""
import argparse
import json
import sys

import bench

# Measurement, its number, unit, floor, and whether more is better.
FLOORS = [
    ("projection", "facts_per_s", "facts/s projected, synchronous_commit on", 8_000, True),
    ("replay", "facts_per_s", "facts/s replayed into an empty schema", 30_000, True),
    ("holds", "p99_ms", "ms, a hold answered, 99 of 100", 10, False),
]


def said(path):
    found = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            # The test's own name may stand before it on the line.
            _, mark, rest = line.partition("measured {")
            if mark:
                one = json.loads("{" + rest)
                found[one.pop("name")] = one
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("said"), parser.add_argument("--command", default=""), parser.add_argument("--commit", default="unknown"), parser.add_argument("--out")
    args = parser.parse_args()
    found, host, missed = said(args.said), bench.machine(), []
    print(f"machine   {host['cores']} cores, {host['model']}, {host['memory_gb']} GB, {host['system']}, load {host['load'][0]}")
    print(f"$ {args.command}")
    if "verify" in found:
        print(f"  one signature checked strictly, with its request decoded: {found['verify']['us']:.0f} us")
    for name, numbers in found.items():
        if name != "verify":
            print(f"  {name}: " + ", ".join(f"{key} {value:,.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items()))
    print()
    for name, number, unit, floor, more in FLOORS:
        value = found.get(name, {}).get(number)
        good = value is not None and (value >= floor if more else value <= floor)
        if not good:
            missed.append(f"{name}.{number}")
        text = "       none" if value is None else f"{value:11,.2f}"
        print(f"  {'OK' if good else 'MISSED':6}  {text}  {unit} (floor: {'at least' if more else 'at most'} {floor:,})")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"commit": args.commit, "machine": host, "command": args.command, "measured": found, "missed": missed}, file, indent=1)
            file.write("\n")
        print(f"\nwritten to {args.out}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
