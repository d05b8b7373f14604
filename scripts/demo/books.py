#!/usr/bin/env python3
"""Every account of a stack's books, as Postgres has them: books.py READY.json [--quiet]

Ends with 0 only if they add up to zero, only `mint` is below zero, no job's hold is open, and some device's owner has earned.
"""
import json
import os
import subprocess
import sys

ACCOUNTS = "select id, balance from ledger.account order by id"
HOLDS = "select state, count(*), coalesce(sum(paid), 0) from ledger.hold group by state order by state"
EARNED = "select credit, sum(amount) from ledger.leg l join ledger.fact f using (seq, i) where f.kind = 'settle' and debit <> credit group by credit"


def ask(url, sql):
    folder = os.environ.get("MESH_PG_BIN", "")
    psql = os.path.join(folder, "psql") if os.path.exists(os.path.join(folder, "psql")) else "psql"
    command = [psql, url, "-X", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", sql]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"{psql} ended with {done.returncode}")
    return [line.split("\t") for line in done.stdout.decode().splitlines() if line]


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        ready = json.load(file)
    quiet = "--quiet" in sys.argv[2:]
    owners = {device["member"]: f"owner of {device['name']}" for device in ready["devices"]}
    owners[ready["member"]["id"]] = "you"
    url = ready["postgres"]["url"]
    accounts = {name: int(balance) for name, balance in ask(url, ACCOUNTS)}
    holds = {state: (int(count), int(paid)) for state, count, paid in ask(url, HOLDS)}
    earned = {account: int(amount) for account, amount in ask(url, EARNED)}

    problems = []
    if sum(accounts.values()) != 0:
        problems.append(f"the sum is {sum(accounts.values())}, not 0")
    problems += [f"{name} is below zero" for name, balance in accounts.items() if balance < 0 and name != "mint"]
    if "open" in holds:
        problems.append(f"{holds['open'][0]} holds are open")
    if not any(earned.get(f"{member}/available", 0) > 0 for member, who in owners.items() if who != "you"):
        problems.append("no owner of a device has earned anything")
    if not quiet:
        for name, balance in accounts.items():
            if balance or "/" not in name:
                member, _, kind = name.partition("/")
                who = f"{owners.get(member, member)}, {kind}" if kind else name
                print(f"  {balance / 1000:>18,.3f}  {who}")
        print(f"  {sum(accounts.values()) / 1000:>18,.3f}  sum of {len(accounts)} accounts")
        print(f"  {holds.get('settled', (0, 0))[0]} jobs settled for {holds.get('settled', (0, 0))[1] / 1000:,.3f} mana, {holds.get('voided', (0, 0))[0]} holds returned whole")
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
