#!/usr/bin/env python3
"""Enough different texts for a job of several seconds: texts.py SENTENCES.txt COUNT, one a line.

Each joins neighbouring sentences, so that they are long and no two are alike; all of it stays within one job's limit.
"""
import sys

LIMIT = 240 * 1024


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        sentences = [line for line in file.read().splitlines() if line.strip()]
    size = 0
    for number in range(int(sys.argv[2])):
        lap, at = divmod(number, len(sentences))
        text = f"{sentences[at]} {sentences[(at + lap + 1) % len(sentences)]}"
        size += len(text.encode()) + 4
        if size > LIMIT:
            return
        print(text)


if __name__ == "__main__":
    main()
