"""Decodes the golden files with nothing but the standard library, and checks ids, Merkle roots, the chain and the digest.

    python3 golden.py FOLDER
"""
import base64, hashlib, json, struct, sys
from pathlib import Path


def unpack(data):
    """MessagePack, as much of it as Mesh writes; refuses trailing bytes."""
    value, rest = one(data)
    assert not rest, "trailing bytes"
    return value


def one(b):
    t, b = b[0], b[1:]
    if t < 0x80: return t, b
    if t < 0x90: return many(b, t & 15, True)
    if t < 0xA0: return many(b, t & 15, False)
    if t < 0xC0: return b[: t & 31].decode(), b[t & 31 :]
    if t == 0xC0: return None, b
    if t in (0xC2, 0xC3): return t == 0xC3, b
    if t in (0xC4, 0xC5, 0xC6):
        w = 1 << (t - 0xC4); n = int.from_bytes(b[:w], "big"); return b[w : w + n], b[w + n :]
    if t in (0xCC, 0xCD, 0xCE, 0xCF):
        w = 1 << (t - 0xCC); return int.from_bytes(b[:w], "big"), b[w:]
    if t in (0xD9, 0xDA, 0xDB):
        w = 1 << (t - 0xD9); n = int.from_bytes(b[:w], "big"); return b[w : w + n].decode(), b[w + n :]
    if t in (0xDC, 0xDD):
        w = 2 << (t - 0xDC); return many(b[w:], int.from_bytes(b[:w], "big"), False)
    if t in (0xDE, 0xDF):
        w = 2 << (t - 0xDE); return many(b[w:], int.from_bytes(b[:w], "big"), True)
    raise ValueError(f"type {t:#x}")


def many(b, n, is_map):
    out = {} if is_map else []
    for _ in range(n):
        if is_map:
            k, b = one(b); v, b = one(b)
            assert k not in out, "duplicate key"
            out[k] = v
        else:
            v, b = one(b); out.append(v)
    return out, b


sha = lambda b: hashlib.sha256(b).digest()
leaf = lambda body: sha(b"\0" + body)


def root(hashes):
    if len(hashes) == 1: return hashes[0]
    k = 1 << ((len(hashes) - 1).bit_length() - 1)
    return sha(b"\1" + root(hashes[:k]) + root(hashes[k:]))


def main(folder):
    seen = 0
    for path in sorted(folder.glob("*.batch.msgpack")):
        batch = unpack(path.read_bytes())
        kind = path.name.split(".")[0]
        assert batch["t"] == f"application/vnd.mesh.{kind}.v1+msgpack", batch["t"]
        assert len(batch["k"]) == 32 and len(batch["s"]) == 64 and batch["v"] == 1
        bodies = [unpack(b) for b in batch["b"]]
        assert len(bodies) == 2 and all(isinstance(b, dict) for b in bodies), kind
        proof = unpack((folder / f"{kind}.proof.msgpack").read_bytes())
        assert proof["i"] == 1 and proof["n"] == 2 and proof["b"] == batch["b"][1]
        assert root([leaf(b) for b in batch["b"]]) == sha(b"\1" + proof["h"][0] + leaf(proof["b"]))
        seen += 1
    assert seen == 12, f"only {seen} kinds"

    job = unpack(unpack((folder / "job.batch.msgpack").read_bytes())["b"][0])
    assert job["text"] == ["hello", "wörld"] and job["cost_mana"] == "1.25" and job["labels"] == {"team": "lab"}
    request = unpack((folder / "assign-request.msgpack").read_bytes())
    body = request["payloads"][0]["body"]
    assert unpack(request["assignments"]["b"][0])["payload"] == bytes([1, 0x55, 0x12, 0x20]) + sha(body), "payload CID"

    stored = (folder / "fact.batch.json").read_bytes()
    facts = [json.loads(text) for text in json.loads(stored)["b"]]
    assert [f["kind"] for f in facts] == ["genesis", "open", "hold"]
    balances, holds = {}, {}
    for f in facts:
        for leg in f["legs"]:
            balances[leg["from"]] = balances.get(leg["from"], 0) - leg["amount_mmana"]
            balances[leg["to"]] = balances.get(leg["to"], 0) + leg["amount_mmana"]
        if f["kind"] == "hold": holds[f["job"]] = (f["member"], f["amount_mmana"])
    lines = sorted(f"{a} {b}\n" for a, b in balances.items() if b) + sorted(f"hold {j} {m} {a}\n" for j, (m, a) in holds.items())
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    chain = sha(bytes(32) + struct.pack(">Q", 1) + sha(stored)).hex()
    assert (folder / "fact.digest.txt").read_text() == f"{digest}\n{chain}\n", "digest or chain differ"
    cid = "b" + base64.b32encode(bytes([1, 0x55, 0x12, 0x20]) + sha(b"a job")).decode().lower().rstrip("=")
    assert facts[2]["job"] == cid
    print(f"{seen} kinds, digest and chain agree")


main(Path(sys.argv[1]))
