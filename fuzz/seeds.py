"""Writes first inputs for the fuzz targets from the golden files: python3 fuzz/seeds.py FOLDER

One folder per target. They are where a fuzzer starts, not what is kept: what is kept was minimised (see CONTRIBUTING.md).
"""
import base64, json, re, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "bus-schemas/tests"))
sys.argv, FOLDER = [sys.argv[0], ""], Path(sys.argv[1])
GOLDEN = HERE.parent / "bus-schemas/tests/golden"


def unpacker():
    """The reader of golden.py, without the checks that the file runs."""
    source = (HERE.parent / "bus-schemas/tests/golden.py").read_text()
    space = {}
    exec(source[: re.search(r"^def (?!unpack|one|many)", source, re.M).start()], space)
    return space["unpack"]


UNPACK = unpacker()
# As in fuzz-targets/src/bodies.rs: the place is the number.
KINDS = re.findall(r'^    \("([a-z-]+)", \w+', (HERE.parent / "fuzz-targets/src/bodies.rs").read_text(), re.M)


def write(target, name, data):
    (FOLDER / target).mkdir(parents=True, exist_ok=True)
    (FOLDER / target / name).write_bytes(data)


def text_of(value):
    """The same body in JSON, as far as it goes."""
    if isinstance(value, bytes):
        return base64.b32encode(value).decode().lower()
    if isinstance(value, dict):
        return {key: text_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [text_of(inner) for inner in value]
    return value


for path in sorted(GOLDEN.iterdir()):
    data, (kind, *rest) = path.read_bytes(), path.name.split(".")
    if rest == ["batch", "msgpack"]:
        write("envelope", path.name, b"\0" + data)
        for n, body in enumerate(UNPACK(data)["b"]):
            number = KINDS.index(kind)
            write("bodies", f"{kind}-{n}", bytes([2 * number]) + body)
            write("bodies", f"{kind}-{n}-json", bytes([2 * number + 1]) + json.dumps(text_of(UNPACK(body))).encode())
            form, other = (4, b"\1\0\0\3\0") if kind == "job" else (5, b"\1\0\0\3\0")
            if kind in ("job", "receipt"):
                write("envelope", f"signed-{kind}-{n}", bytes([form]) + other + body)
            if kind == "job":
                spec = {key: value for key, value in text_of(UNPACK(body)).items() if key in ("kind", "text", "timeout_ms", "labels", "key")}
                write("doors", f"job-{n}", b"\0" + json.dumps(spec).encode())
                write("doors", f"jobs-{n}", b"\0" + json.dumps([spec, spec]).encode())
                write("envelope", f"signed-json-{n}", b"\4\0\0\0\3\0" + json.dumps(spec).encode())
                write("doors", f"job-msgpack-{n}", b"\1" + data)
    elif rest == ["proof", "msgpack"]:
        write("envelope", path.name, b"\1" + data)
        if kind == "job":
            write("doors", "proof", b"\1" + data)
    elif rest == ["batch", "json"]:
        write("envelope", path.name, b"\2" + data)
        for n, body in enumerate(json.loads(data)["b"]):
            write("bodies", f"{kind}-{n}", bytes([2 * KINDS.index(kind) + 1]) + body.encode())
    elif kind == "dead-letter":
        write("bodies", path.name, bytes([2 * KINDS.index("dead-letter") + 1]) + data)
    elif kind in ("assign-request", "assign-reply", "receipt-message"):
        write("bodies", path.name, bytes([2 * KINDS.index(kind)]) + data)
    elif kind == "ledger-request":
        write("bodies", path.name, bytes([2 * KINDS.index("ledger")]) + data)
        write("doors", path.name, b"\3" + data)

DID = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
MEM, DEV, NET = (prefix + "_" + "a" * 26 for prefix in ("mem", "dev", "net"))
invite = json.dumps({"url": "https://hub.example:8443", "network": NET, "secret": "s" * 32, "ca_sha256": "0" * 64}).encode()
names = [DID, CID, "job_" + CID, MEM, DEV, NET, "0badcafe", "mint", MEM + "/available", "1.25", "0.001", "9007199254740.991"]
names += ["mesh1." + base64.urlsafe_b64encode(invite).decode().rstrip("="), f"mesh.v1.bid.{DEV}.0badcafe", f"mesh.v1.api.{MEM}.job.show"]
for n, name in enumerate(names):
    write("names", f"name-{n}", name.encode())
write("names", "cid", base64.b32decode((CID[1:] + "=" * (-len(CID[1:]) % 8)).upper()))

device = f"""name = "laptop"
network = "{NET}"
gateway_url = "http://127.0.0.1:1"
leaf_url = "nats://127.0.0.1:2"
nats_url = "nats://127.0.0.1:3"
ws_url = "wss://127.0.0.1:4"
[device]
id = "{DEV}"
did = "{DID}"
[member]
id = "{MEM}"
did = "{DID}"
[settings]
link = "leaf"
local_port = 0
kinds = ["echo"]
cores = 1
memory_mb = 2
full_queue = "decline"
slots = 2
paused = "by its owner"
paused_until_ms = 5
[told]
gateway_url = "http://127.0.0.1:1"
leaf_url = "nats://127.0.0.1:2"
nats_url = "nats://127.0.0.1:3"
"""
write("settings", "device.toml", b"\0" + device.encode())
write("settings", "network.json", b"\1" + (GOLDEN / "fact.batch.json").read_bytes())
policy = {"version": 1, "fee_bp": 0, "vesting_ms": 0, "grant_mmana": 1000, "regen_mmana": 0, "epoch_ms": 1000, "decay": 3, "open_holds_max": 2}
write("settings", "policy.json", b"\2" + json.dumps(policy).encode())
write("settings", "creds", b"\3-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\nSUA\n------END USER NKEY SEED------\n")

claims = {"iat": 1700000000, "iss": "A" * 56, "jti": "x", "name": "dev_x", "sub": "U" * 56, "nats": {"type": "user", "version": 2, "issuer_account": "A", "tags": ["member:mem_y"]}}
part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
token = f'{part({"typ": "JWT", "alg": "ed25519-nkey"})}.{part(claims)}.{"A" * 86}'
write("tokens", "user", b"\0" + token.encode())
for n, nats in enumerate([claims["nats"], {"type": "operator", "version": 2, "signing_keys": ["O"], "system_account": "A"}, {"type": "account", "version": 2, "limits": {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}, "revocations": {"U": 7}}]):
    write("tokens", f"claims-{n}", bytes([1, 0, 3]) + json.dumps({**claims, "nats": nats}).encode())

statement = {"net": NET, "device": DID, "member": DID, "transport": "U" * 56, "name": "laptop", "at": 1, "secret": "s", "claimed_tier": 1, "total": {"cpu_cores": 1, "memory_mb": 1, "storage_mb": 1, "gpu_mb": 0}, "kinds": ["echo"]}
request = {"statement": json.dumps(statement), "device_sig": "A" * 86, "member_sig": "A" * 86, "transport_sig": "A" * 86}
write("doors", "enrol", b"\2" + json.dumps(request).encode())
write("doors", "statement", b"\4" + json.dumps(statement).encode())
write("bodies", "enrol", bytes([2 * KINDS.index("enrol") + 1]) + json.dumps(statement).encode())
write("bodies", "enrol-request", bytes([2 * KINDS.index("enrol-request") + 1]) + json.dumps(request).encode())

for n in range(24):
    write("books", f"steps-{n}", bytes((n * 37 + i * (2 * n + 1) * 11) % 256 for i in range(40 + 12 * n)))
