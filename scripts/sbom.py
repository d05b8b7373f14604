"""What Mesh is made of, as CycloneDX 1.5 JSON: scripts/sbom.py [FILE]

Every package that can get into a program, for whatever platform, with version, licence, checksum and what it needs; tests and their tools are
left out. Read from Cargo.lock and `cargo metadata`, so it needs no network and no further tool, and says the same of the same sources:
there is no time in it and no random number.
"""
import hashlib, json, re, subprocess, sys, tomllib
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    for more in (["--offline"], []):
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout)
    sys.exit(f"cargo metadata failed:\n{done.stderr}")


def checksums():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}


def licence(text):
    """Cargo knows an older way to write OR, which SPDX does not."""
    return re.sub(r"\s*/\s*", " OR ", text)


def component(package, ours, sums):
    name, version = package["name"], package["version"]
    found = {"type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version}
    if package["id"] in ours and any("bin" in target["kind"] for target in package["targets"]):
        found["type"] = "application"
    if package.get("description"):
        found["description"] = package["description"].strip()
    if package.get("license"):
        found["licenses"] = [{"expression": licence(package["license"])}]
    # A purl is of the registry's package: a changed copy and our own crates are none.
    if package["source"]:
        found["purl"] = f"pkg:cargo/{quote(name)}@{quote(version)}"
    if sums.get((name, version)):
        found["hashes"] = [{"alg": "SHA-256", "content": sums[(name, version)]}]
    return found


def bom():
    told = metadata()
    packages = {package["id"]: package for package in told["packages"]}
    ours, sums = set(told["workspace_members"]), checksums()
    programs = {identity for identity in ours if any("bin" in target["kind"] for target in packages[identity]["targets"])}
    needs = {
        node["id"]: sorted(dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"]))
        for node in told["resolve"]["nodes"]
    }
    reached, waiting = set(), sorted(programs)
    while waiting:
        identity = waiting.pop()
        if identity not in reached:
            reached.add(identity)
            waiting.extend(needs[identity])
    ref = lambda identity: f"{packages[identity]['name']}@{packages[identity]['version']}"
    components = sorted((component(packages[identity], ours, sums) for identity in reached), key=lambda one: one["bom-ref"])
    dependencies = sorted(({"ref": ref(one), "dependsOn": sorted({ref(other) for other in needs[one]})} for one in reached), key=lambda one: one["ref"])
    version = packages[sorted(programs)[0]]["version"]
    mesh = {"type": "application", "bom-ref": f"mesh@{version}#workspace", "name": "mesh", "version": version, "licenses": [{"expression": "Apache-2.0"}]}
    dependencies.append({"ref": mesh["bom-ref"], "dependsOn": sorted(ref(one) for one in programs)})
    content = {"components": components, "dependencies": dependencies}
    # Of the content: the same sources have the same number.
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    serial = f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1, "metadata": {"component": mesh}, **content}


text = json.dumps(bom(), indent=1, ensure_ascii=False) + "\n"
if len(sys.argv) > 1:
    Path(sys.argv[1]).write_text(text)
else:
    sys.stdout.write(text)
