"""Chooses what is kept of a corpus: python3 fuzz/keep.py PROGRAM TARGET FOLDER...

Of all inputs in the folders it keeps those in fuzz/corpus/TARGET that together reach most: at most 40 files of at most 4 KiB. Files whose
name begins with "found-" broke something once and stay.
"""
import hashlib, os, subprocess, sys, tempfile
from pathlib import Path

FILES_MAX, BYTES_MAX = 40, 4096
PROGRAM, TARGET, *FOLDERS = sys.argv[1:]
KEPT = Path(__file__).resolve().parent / "corpus" / TARGET


def features(folders):
    """What each input reaches, as libFuzzer writes it down while it merges."""
    with tempfile.TemporaryDirectory() as scratch:
        control, empty = Path(scratch, "control"), Path(scratch, "empty")
        empty.mkdir()
        command = [PROGRAM, "-merge=1", f"-max_len={BYTES_MAX}", f"-merge_control_file={control}", empty, *folders]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "MESH_FUZZ_TARGET": TARGET})
        lines = control.read_text().splitlines()
    count = int(lines[0])
    names, reached = lines[2 : 2 + count], {}
    for line in lines[2 + count :]:
        kind, number, *rest = line.split()
        if kind in ("FT", "COV"):
            reached.setdefault(names[int(number)], set()).update((kind, feature) for feature in rest)
    return reached


def choose(reached, room):
    """The one that adds most, again and again; of equals the shortest."""
    missing, chosen = set().union(*reached.values()), []
    while missing and len(chosen) < room:
        best = max(reached, key=lambda name: (len(reached[name] & missing), -Path(name).stat().st_size))
        if not reached[best] & missing:
            break
        missing -= reached[best]
        chosen.append(best)
    return chosen, len(missing)


KEPT.mkdir(parents=True, exist_ok=True)
found = [path for path in KEPT.iterdir() if path.name.startswith("found-")]
inputs = {name: what for name, what in features([*FOLDERS, KEPT]).items() if Path(name).stat().st_size <= BYTES_MAX}
chosen, missed = choose(inputs, FILES_MAX - len(found))
contents = [Path(name).read_bytes() for name in chosen]
for path in KEPT.iterdir():
    if path not in found:
        path.unlink()
for content in contents:
    (KEPT / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
whole = len(set().union(*inputs.values()))
print(f"{TARGET}: {len(contents)} of {len(inputs)} inputs are kept; they reach {whole - missed} of {whole} features")
