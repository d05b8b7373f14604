#!/usr/bin/env python3
"""The sentences nearest to a question, by cosine of vectors that the network computed.

    nearest.py SENTENCES.txt RESULT.json QUESTION.json [COUNT]

SENTENCES.txt holds the texts, one a line; RESULT.json is what `mesh job result -o json` prints for them, QUESTION.json the
same for the question alone. Checks that there is a unit vector of the promised size for each text.
"""
import json
import math
import sys


def vectors(path):
    with open(path, encoding="utf-8") as file:
        result = json.load(file)["result"]
    for vector in result["vectors"]:
        length = math.sqrt(sum(x * x for x in vector))
        if len(vector) != result["dims"] or abs(length - 1) > 1e-3:
            sys.exit(f"{path} holds a vector of {len(vector)} numbers and length {length:.4f}; {result['dims']} and 1 were promised")
    return result["vectors"]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def main():
    texts_path, result_path, question_path = sys.argv[1:4]
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    with open(texts_path, encoding="utf-8") as file:
        texts = [line for line in file.read().splitlines() if line.strip()]
    rows, question = vectors(result_path), vectors(question_path)
    if len(rows) != len(texts) or len(question) != 1:
        sys.exit(f"{len(texts)} texts and one question gave {len(rows)} and {len(question)} vectors")
    ranked = sorted(((cosine(row, question[0]), text) for row, text in zip(rows, texts)), reverse=True)
    for score, text in ranked[:count]:
        print(f"  {score:.3f}  {text}")


if __name__ == "__main__":
    main()
