#!/usr/bin/env python3
"""What `mesh dev -o json` said when it was ready, in a few lines for people.

    ready.py READY.json                                        the addresses and the devices
    ready.py READY.json --agent NAME                           the process id of that device's agent
    ready.py READY.json --explained EXPLAIN.json --winner DEV  does `mesh job explain` name every device and the winner?
"""
import argparse
import json
import sys


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ready")
    parser.add_argument("--agent")
    parser.add_argument("--explained")
    parser.add_argument("--winner")
    args = parser.parse_args()
    ready = load(args.ready)
    names = {device["id"]: device["name"] for device in ready["devices"]}

    if args.agent:
        pids = [process["pid"] for process in ready["processes"] if (process["role"], process["name"]) == ("agent", args.agent)]
        if len(pids) != 1:
            sys.exit(f"{args.agent} is not one process of {ready['processes']}")
        print(pids[0])
    elif args.explained:
        explained = load(args.explained)
        decision = next((one for one in explained["decisions"] if one.get("winner")), None)
        if decision is None or decision["winner"] != args.winner:
            sys.exit(f"no decision names the winner {args.winner}: {explained['decisions']}")
        missing = set(names) - {one["device"] for one in decision["considered"]}
        if missing:
            sys.exit(f"not named: {missing}")
        if any(not one["verdict"] for one in decision["considered"]):
            sys.exit(f"without a reason: {decision['considered']}")
    else:
        for what, value in (("hub", ready["nats"]["url"]), ("leaf", ready["nats"]["leaf_url"]), ("gateway", ready["gateway"]["url"])):
            print(f"  {what:<9} {value}")
        for device in ready["devices"]:
            print(f"  {device['name']:<9} {device['id']}  tier {device['tier']}  {device['local_url']}")
        print(f"  {len(ready['processes'])} processes")


if __name__ == "__main__":
    main()
