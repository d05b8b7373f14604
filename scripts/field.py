#!/usr/bin/env python3
"""Print one field of a JSON document: scripts/field.py FILE /devices/0/id

A string is printed as it is, anything else as JSON. Exit code 1 where there is no such field. A path part may name an
element of a list by one of its own fields: /devices/id=dev_x/name.
"""
import json
import sys


def field(value, pointer):
    for part in pointer.strip("/").split("/") if pointer.strip("/") else []:
        if isinstance(value, list) and "=" in part:
            name, wanted = part.split("=", 1)
            value = next((item for item in value if str(item.get(name)) == wanted), None)
        elif isinstance(value, list):
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            value = None
        if value is None:
            return None
    return value


def main():
    path, pointer = sys.argv[1:3]
    with open(path, encoding="utf-8") as file:
        found = field(json.load(file), pointer)
    if found is None:
        sys.exit(f"no {pointer} in {path}")
    print(found if isinstance(found, str) else json.dumps(found))


if __name__ == "__main__":
    main()
