#!/usr/bin/env python3
"""Lists the third-party components of the program, as a CycloneDX document or as licence notices.

    deploy/packages/inventory.py sbom VERSION COMMIT EPOCH
    deploy/packages/inventory.py notices

Covers the crates that Cargo links for this machine with the default features, without procedural
macros, build dependencies and dev dependencies.
"""

import datetime
import functools
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
OWN = {"osproxy", "osproxy-api", "osproxy-storage"}
TEXT = re.compile(r"(licen[cs]e|copying|notice|unlicense|copyright)[^/]*", re.IGNORECASE)
# For crates whose archives contain no licence text.
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify,
merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to
do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


@functools.cache
def machine():
    return re.search(r"^host: (.+)$", run("rustc", "-vV"), re.MULTILINE)[1]


@functools.cache
def metadata():
    command = ("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", machine())
    return json.loads(run(*command))


def linked():
    """The linked crates, as described by Cargo, sorted."""
    tree = ("cargo", "tree", "--locked", "-p", "osproxy", "-e", "normal,no-proc-macro", "--target", machine())
    lines = run(*tree, "--prefix", "none", "--no-dedupe").splitlines()
    found = {tuple(line.split()[:2]) for line in lines}
    packages = [p for p in metadata()["packages"] if (p["name"], "v" + p["version"]) in found]
    assert len(packages) == len(found), "cargo tree and cargo metadata have different crates"
    return sorted(packages, key=lambda package: (package["name"], package["version"]))


def licence(package):
    return package["license"].replace("/", " OR ").replace("  ", " ")


def swagger():
    """The archive of the page under /swagger, which a build script embeds into the program."""
    crate = next(p for p in metadata()["packages"] if p["name"] == "utoipa-swagger-ui-vendored")
    return next(pathlib.Path(crate["manifest_path"]).parent.glob("res/*.zip"))


def besides():
    """Linked components other than crates: kind, name, version, licence, texts."""
    sqlite = next(p for p in metadata()["packages"] if p["name"] == "libsqlite3-sys")
    header = pathlib.Path(sqlite["manifest_path"]).parent / "sqlite3/sqlite3.h"
    number = re.search(r'SQLITE_VERSION +"(.+)"', header.read_text())[1]
    text = "SQLite is in the public domain: https://www.sqlite.org/copyright.html\n"
    yield "generic", "sqlite", number, "blessing", [text]
    release = run("rustc", "--version").split()[1]
    yield "generic", "rust-std", release, "MIT OR Apache-2.0", [(ROOT / "LICENSE").read_text()]
    archive = swagger()
    with zipfile.ZipFile(archive) as files:
        folder = files.namelist()[0]
        texts = [files.read(folder + name).decode() for name in ("LICENSE", "NOTICE")]
        lock = json.loads(files.read(folder + "package-lock.json"))
    yield "npm", "swagger-ui", archive.stem.removeprefix("v"), "Apache-2.0", texts
    # Its pages bundle the packages of its lock file, whose licence texts are not in the archive.
    not_bundled = ("dev", "devOptional", "optional", "peer")
    for path, part in sorted(lock["packages"].items()):
        if path and not any(part.get(mark) for mark in not_bundled):
            yield "npm", path.rsplit("node_modules/", 1)[1], part["version"], part.get("license"), []


def texts_of(package):
    """The licence texts in a crate, including those of code that it contains."""
    folder = pathlib.Path(package["manifest_path"]).parent
    files = (path for path in folder.rglob("*") if TEXT.fullmatch(path.name) and path.is_file())
    files = [path for path in files if path.suffix not in {".rs", ".toml"}]
    texts = [path.read_text(errors="replace") for path in sorted(files)]
    if texts:
        return texts
    if "Apache-2.0" in package["license"]:
        return [(ROOT / "LICENSE").read_text()]
    assert package["license"] == "MIT", f"{package['name']} has no text of its licence"
    return [f"Copyright (c) {', '.join(package['authors'])}\n\n{MIT}\n"]


def notices():
    """Prints every text once, below the components that it applies to."""
    rows, texts = [], {}
    third = [p for p in linked() if p["name"] not in OWN]
    crates = [("cargo", p["name"], p["version"], licence(p), texts_of(p)) for p in third]
    for kind, name, version, expression, found in [*crates, *besides()]:
        # One npm package has no licence in the lock file.
        rows.append(f"{name} {version}: {expression or 'see https://www.npmjs.com/package/' + name}")
        for text in found:
            text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
            texts.setdefault(" ".join(text.split()), (text, []))[1].append(f"{name} {version}")
    print("osproxy is licensed under the Apache License, Version 2.0. It contains these third-party components:\n")
    print("\n".join(rows))
    for text, names in texts.values():
        print(f"\n{'=' * 80}\n{', '.join(dict.fromkeys(names))}\n{'-' * 80}\n\n{text}")


def component(package, checksums):
    name, version = package["name"], package["version"]
    reference = f"pkg:cargo/{name}@{version}"
    described = {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}
    described["licenses"] = [{"expression": licence(package)}]
    if checksum := checksums.get((name, version)):
        described["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        described["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return described


def sbom(version, commit, epoch):
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    packages = linked()
    references = {p["id"]: f"pkg:cargo/{p['name']}@{p['version']}" for p in packages}
    components = [component(p, checksums) for p in packages]
    program = next(c for c in components if c["name"] == "osproxy")
    components.remove(program)
    program |= {"type": "application", "version": version}
    if commit:
        program["properties"] = [{"name": "osproxy:commit", "value": commit}]
    more = []
    for kind, name, number, expression, _ in besides():
        purl = f"pkg:{kind}/{name.replace('@', '%40')}@{number}"
        more.append({"type": "library", "bom-ref": purl, "name": name, "version": number, "purl": purl})
        if expression:
            more[-1]["licenses"] = [{"expression": expression}]
    # The lock file may list an npm package more than once.
    more = list({c["bom-ref"]: c for c in more}.values())
    dependencies = []
    for node in metadata()["resolve"]["nodes"]:
        if node["id"] in references:
            normal = (d["pkg"] for d in node["deps"] if any(k["kind"] is None for k in d["dep_kinds"]))
            needed = sorted({references[package] for package in normal if package in references})
            dependencies.append({"ref": references[node["id"]], "dependsOn": needed})
    own = next(d for d in dependencies if d["ref"] == program["bom-ref"])
    own["dependsOn"] += [c["bom-ref"] for c in more]
    made = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": made, "component": program},
        "components": components + more,
        "dependencies": sorted(dependencies, key=lambda d: d["ref"]),
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()
    document["serialNumber"] = uuid.UUID(bytes=digest[:16], version=4).urn
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["sbom", version, commit, epoch]:
            sbom(version, commit, epoch)
        case ["notices"]:
            notices()
        case _:
            sys.exit(__doc__)
