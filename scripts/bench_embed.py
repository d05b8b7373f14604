#!/usr/bin/env python3
"""Time sentence-transformers on 1,000 mixed texts: what the embed kind is measured against.

    PYTHON scripts/bench_embed.py MODEL_DIR                     one line of JSON: texts, seconds, cpu_seconds, texts_per_s
    PYTHON scripts/bench_embed.py MODEL_DIR --against PROGRAM   in turns with PROGRAM, which is given the texts' file and
                                                                prints the same JSON; reports both and the ratio
    python3 scripts/bench_embed.py --write FILE                 only write the texts, one {"text": ...} per line

PYTHON is the one of the folder that scripts/bench_venv.sh makes, MODEL_DIR the one of scripts/model.sh. The model is
loaded and warmed before the clock starts; batch size and threads are the library's defaults. The texts are the same on
every machine: lengths are log-normal around 20 words. Of several rounds the median counts.
"""
import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="true")

WORDS = """about after again agent all also always and another answer any are as ask at auction available back balance battery
be because been before best bid blue book both bring build but by came can car carry change city close cold come computer
cooperative could country credit day device did different do done door down draw each early earth eat electricity embedding end
enough even every example eye face family far farm father feet few find fire first fish five follow food form found four
friend from gateway gave get give go gold good got great green ground group grow had half hand hard harbour has have he head
hear help her here high him his hold home horse hour house how hundred idle if in inside into island it its job just keep
kind knew know laboratory land language large last late laptop learn leave ledger left letter life light like line list
little live long look machine made make man many map mark may mean measure member mile mind money moon more morning most
mother mountain move much must name near need network never new next night north note nothing notice now number of off often
old on once one only open or order other our out over own page paper part pass pattern pay people perhaps picture piece place
plain plan plant point policy power press price problem produce pull put queue question quick rain ran reach read ready
reason receipt record red reputation rest result right river road rock room round rule run said same saw say scheduler school
science sea second see seem sentence set seven several shape she ship short should show side sign since sing sit six size
sleep slow small snow so some song soon sound south spell stand star start state station stay step still stone stood stop
story street strong study such summer sun sure surface table take talk teach tell temperature ten than that the their them
then there these they thing think this those thought three through tide time to together told too took top toward town travel
tree trouble true turn two under understand until up us usual vector very voice vowel wait walk wall want war warm was watch
water way we week weight well went were west what wheel when where which while white who whole why will wind window winter
wire with wonder wood word work world would write year yes yet you young your""".split()


def texts(count):
    """The same texts everywhere: Python keeps the sequence of a seeded Random.random() for ever."""
    rng = random.Random(20)

    def normal():
        return math.sqrt(-2 * math.log(1 - rng.random())) * math.cos(2 * math.pi * rng.random())

    def word():
        dice = rng.random()
        if dice < 0.02:
            return str(int(rng.random() * 10_000))
        return WORDS[int(rng.random() * len(WORDS))] + ("," if dice < 0.08 else "")

    def text():
        length = max(1, min(400, round(math.exp(math.log(20) + 0.8 * normal()))))
        return " ".join(word() for _ in range(length)).rstrip(",").capitalize() + "."

    return [text() for _ in range(count)]


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report(count, seconds, cpu):
    return {"texts": count, "seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), "texts_per_s": round(count / seconds, 1)}


def median(rounds):
    return report(rounds[0]["texts"], *(statistics.median(r[key] for r in rounds) for key in ("seconds", "cpu_seconds")))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", nargs="?")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", metavar="PROGRAM")
    parser.add_argument("--write", metavar="FILE")
    args = parser.parse_args()
    if args.texts < 1 or args.rounds < 1 or not (args.model_dir or args.write):
        parser.error("give MODEL_DIR or --write, and at least one text and one round")

    mixed = texts(args.texts)

    def write(file):
        file.writelines(json.dumps({"text": text}) + "\n" for text in mixed)
        file.flush()

    if args.write:
        with open(args.write, "w", encoding="utf-8") as file:
            write(file)
        if not args.model_dir:
            return

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(args.model_dir, device="cpu")
    model.encode(mixed[:64], show_progress_bar=False)

    def reference():
        wall, cpu = time.perf_counter(), cpu_seconds()
        model.encode(mixed, show_progress_bar=False)
        return report(len(mixed), time.perf_counter() - wall, cpu_seconds() - cpu)

    if not args.against:
        print(json.dumps(median([reference() for _ in range(args.rounds)])))
        return

    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        write(file)

        def ours():
            answer = subprocess.run([args.against, file.name], check=False, stdout=subprocess.PIPE)
            if answer.returncode != 0:
                sys.exit(f"{args.against} failed with {answer.returncode}")
            return json.loads(answer.stdout)

        both = [(reference(), ours()) for _ in range(args.rounds)]
    theirs, mine = median([r for r, _ in both]), median([o for _, o in both])
    ratio = {key: round(theirs[key] / mine[key], 2) for key in ("seconds", "cpu_seconds")}
    print(json.dumps({"reference": theirs, "mesh": mine, "times_faster": ratio["seconds"], "times_less_cpu": ratio["cpu_seconds"]}))


if __name__ == "__main__":
    main()
