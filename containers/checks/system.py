"""What packages' own scripts make elsewhere is there: in a foreign root file system none of them ran."""

from __future__ import annotations

from containers.contents import LOADER_CACHE
from containers.findings import Check, Expected, Finding, some
from containers.image_tree import ImageTree

NAME = "system"
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
LEAST = 10_000  # bytes; one certificate alone has a thousand


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result = Check(NAME, expected)
    _certificates(tree, result)
    _accounts(tree, result)
    _compiler(tree, expected, result)
    _cache(tree, expected, result)
    return result.findings


def _certificates(tree: ImageTree, result: Check) -> None:
    there = [(path, entry.size) for path in BUNDLES if (entry := tree.entry(path)) and entry.kind == "file"]
    if not there:
        result.wrong("certificates", "no CA bundle", f"one of {', '.join(BUNDLES)}", BUNDLES[0])
    elif there[0][1] < LEAST:
        result.wrong("certificates", f"{there[0][1]} bytes", f"{LEAST} bytes or more", there[0][0])
    else:
        result.ok("certificates", f"{there[0][1]} bytes", there[0][0])


def _accounts(tree: ImageTree, result: Check) -> None:
    lines = (tree.text("/etc/passwd") or "").splitlines()
    if any(line.startswith("root:") and line.split(":")[2:3] == ["0"] for line in lines):
        result.ok("accounts", f"root and {len(lines) - 1} more", "/etc/passwd")
    else:
        result.wrong("accounts", "no root", "root with uid 0", "/etc/passwd")


def _compiler(tree: ImageTree, expected: Expected, result: Check) -> None:
    for folder in expected.path:
        if claims := tree.elf(f"{folder}/cc"):
            real = tree.real(f"{folder}/cc") or ""
            if claims.machine == expected.platform.machine:
                result.ok("compiler", f"cc is {real}", f"{folder}/cc")
            else:
                result.wrong("compiler", f"{real} is for {claims.machine}", expected.platform.machine, real)
            return
    if expected.cuda:
        result.wrong("compiler", "no cc on PATH", "a program: Triton compiles with it", "/usr/bin/cc")
    else:
        result.skipped("compiler", "no cc on PATH, and not needed: no CUDA")


def _cache(tree: ImageTree, expected: Expected, result: Check) -> None:
    path = f"/{LOADER_CACHE}"
    cached = tree.fact(path).cached
    gone = [each for each in cached if tree.entry(each) is None]
    if gone:
        result.wrong("loader's cache", f"leads to {some(gone)}", "libraries that are there", path)
    elif cached:
        result.ok("loader's cache", f"{len(cached)} libraries, all there", path)
    elif expected.cuda:
        result.wrong("loader's cache", "is missing or empty", "the libraries of the image", path)
    else:
        result.skipped("loader's cache", "there is none; the loader's own folders are enough without CUDA")
