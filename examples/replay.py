#!/usr/bin/env python3
"""Replays the ledger of a Mesh network as a stranger would: from docs/ledger-format.md, with nats-py and the standard library.

    replay.py NATS_URL AUDITOR.creds NETWORK         NETWORK: network.json, or http://GATEWAY/api/v1/network

Prints all balances (in milli-mana), chain, Merkle root and digest. Ends with 1 where a signature of the network, a sequence, a sum or a
checkpoint is wrong. Needs `pip install nats-py nkeys`; the Ed25519 check is that of PyNaCl, which nkeys needs for the login anyway.
"""
import asyncio, base64, hashlib, json, math, re, sys, urllib.request
import nats
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

def sha(data): return hashlib.sha256(data).digest()
def unpadded(text):
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != text.rstrip("="):  # Python passes over what is no base64url
        raise ValueError("no base64url")
    return data

def strict(data, bytes_max):
    """JSON that no two readers read in two ways; everything else is a ValueError."""
    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key appears twice in an object")
        return dict(pairs)
    def number(text):
        if not math.isfinite(float(text)):
            raise ValueError("a number is out of range")
        return int(text) if text.lstrip("-").isdigit() else float(text)
    def walk(value, left):
        if isinstance(value, str):
            value.encode()  # half a surrogate pair is no text
        elif isinstance(value, (dict, list)):
            if left == 0:
                raise ValueError("nested deeper than 32")
            for inner in value if isinstance(value, list) else (*value, *value.values()):
                walk(inner, left - 1)
    if len(data) > bytes_max:
        raise ValueError(f"{len(data)} bytes, at most {bytes_max} are allowed")
    try:  # json.loads itself refuses trailing bytes
        value = json.loads(data.decode(), object_pairs_hook=once, parse_int=number, parse_float=number, parse_constant=number)
    except RecursionError:
        raise ValueError("nested deeper than 32") from None
    walk(value, 32)
    return value

class Tree:  # RFC 6962; keeps only the roots of complete subtrees, the largest first
    def __init__(self): self.peaks = []
    def push(self, data):
        size, node = 1, sha(b"\0" + data)
        while self.peaks and self.peaks[-1][0] == size:
            size, node = 2 * size, sha(b"\1" + self.peaks.pop()[1] + node)
        self.peaks.append((size, node))
    def root(self):
        *lefts, (_, node) = self.peaks
        for _, left in reversed(lefts):
            node = sha(b"\1" + left + node)
        return node

def key_of(did):
    if not re.fullmatch("did:key:z.{47}", did):
        raise ValueError("no did:key of an Ed25519 key")
    number = 0
    for character in did.removeprefix("did:key:z"):
        number = 58 * number + BASE58.index(character)
    data = number.to_bytes(35, "big")
    if data[:3] != b"\0\xed\1":  # ed 01, then the key
        raise ValueError("no did:key of an Ed25519 key")
    return data[3:]

def bodies(payload, kind):
    """The signed bodies of one message, and who signed them."""
    message, tree = strict(payload, 768 * 1024), Tree()
    if set(message) != set("vtbks") or type(message["v"]) is not int or not isinstance(message["b"], list):
        raise ValueError("no message")
    if message["v"] != 1 or message["t"] != f"application/vnd.mesh.{kind}.v1+json" or not 1 <= len(message["b"]) <= 256:
        raise ValueError(f"no message of the type {kind}")
    for body in message["b"]:
        tree.push(body.encode())
    frame = f"DSSEv1 {len(message['t'])} {message['t']} 32 ".encode() + tree.root()
    VerifyKey(key_of(message["k"])).verify(frame, unpadded(message["s"]))
    return [strict(body.encode(), 64 * 1024) for body in message["b"]], message["k"]

class Books:
    def __init__(self, network):
        self.network, self.balances, self.holds, self.ids = network, {}, {}, set()
        self.seq, self.chain, self.tree, self.checkpoints = 0, bytes(32), Tree(), 0

    def digest(self):
        lines = sorted(f"{account} {balance}\n" for account, balance in self.balances.items() if balance)
        return sha("".join(lines + sorted(f"hold {job} {who} {amount}\n" for job, (who, amount) in self.holds.items())).encode())

    def message(self, seq, payload):
        assert seq == self.seq + 1, f"sequence {self.seq + 1} is missing"
        try:
            facts, signer = bodies(payload, "fact")
            if signer not in self.network["ledger_keys"] or any(fact["net"] != self.network["network"] for fact in facts):
                raise ValueError("not by a ledger key of this network")
            if facts[0]["id"] in self.ids:
                raise ValueError("a copy of a message before it")
        except (ValueError, KeyError, TypeError, AttributeError, BadSignatureError) as why:
            print(f"alarm: sequence {seq} counts for nothing: {why}", file=sys.stderr)
            facts = []
        for fact in facts:
            self.fact(seq, fact)
        self.seq, self.chain = seq, sha(self.chain + seq.to_bytes(8, "big") + sha(payload))
        self.tree.push(payload)

    def fact(self, seq, fact):
        assert fact["id"] not in self.ids, f"sequence {seq}: {fact['id']} appears twice"
        self.ids.add(fact["id"])
        for leg in fact["legs"]:
            for account, change in ((leg["from"], -leg["amount_mmana"]), (leg["to"], leg["amount_mmana"])):
                self.balances[account] = self.balances.get(account, 0) + change
                assert account == "mint" or self.balances[account] >= 0, f"sequence {seq}: {account} is below zero"
        if fact["kind"] == "hold":
            self.holds[fact["job"]] = fact["member"], fact["amount_mmana"]
        elif fact["kind"] in ("settle", "void"):
            assert self.holds.pop(fact["job"], None), f"sequence {seq}: {fact['job']} has no open hold"
        elif fact["kind"] == "checkpoint":
            ours = self.seq, self.chain.hex(), self.tree.root().hex(), self.digest().hex()
            assert ours == (fact["seq"], fact["chain"], fact["root"], fact["state"]), f"sequence {seq}: the checkpoint states other books"
            self.checkpoints += 1

async def replay(url, creds, books):
    token = re.search(r"BEGIN NATS USER JWT-+\s+(\S+)", open(creds, encoding="utf-8").read())[1]
    name = json.loads(unpadded(token.split(".")[1]))["name"]
    bus = await nats.connect(url, user_credentials=creds, inbox_prefix=f"_INBOX.{name}".encode())
    end = json.loads((await bus.request("mesh.v1.audit.STREAM.INFO.LEDGER", timeout=5)).data)["state"]["last_seq"]
    while books.seq < end:
        inbox, before = bus.new_inbox(), books.seq
        answers = await bus.subscribe(inbox)
        await bus.publish("mesh.v1.audit.DIRECT.GET.LEDGER", json.dumps({"seq": before + 1, "batch": 256}).encode(), reply=inbox)
        while "Nats-Sequence" in (message := await answers.next_msg(timeout=5)).headers:  # nats-py keeps the last of a name: the server's
            books.message(int(message.headers["Nats-Sequence"]), message.data)
        await answers.unsubscribe()
        assert books.seq > before, f"sequence {before + 1} is missing"
    await bus.close()

def main(url, creds, where):
    [network], signer = bodies(urllib.request.urlopen(where).read() if where.startswith("http") else open(where, "rb").read(), "network")
    derived = "net_" + base64.b32encode(sha(key_of(signer))).decode().lower()[:26]
    assert signer == network["network_key"] and network["network"] == derived, "the network document is not signed by its own network"
    books = Books(network)
    asyncio.run(replay(url, creds, books))
    for account, balance in sorted(books.balances.items()):
        print(f"{balance:>20}  {account}")
    for name, value in (("sum", sum(books.balances.values())), ("facts", len(books.ids)), ("open_holds", len(books.holds)), ("checkpoints", books.checkpoints),
                        ("seq", books.seq), ("chain", books.chain.hex()), ("root", books.tree.root().hex()), ("digest", books.digest().hex())):
        print(f"{name:>20}  {value}")
    assert sum(books.balances.values()) == 0, "the balances do not add up to zero"

if __name__ == "__main__":
    try:
        main(*sys.argv[1:]) if len(sys.argv) == 4 else sys.exit(__doc__)
    except AssertionError as wrong:
        sys.exit(f"WRONG: {wrong}")
