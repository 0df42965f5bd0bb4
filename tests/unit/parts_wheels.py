"""Wheels made by hand, with a library that says of itself what a compiled one would."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from definitions import bases
from kit.nouns import digest_file
from runner import cli, planning

MACHINES = {"x86_64": 62, "aarch64": 183}


def fat(*archs: int, kind: int = 2) -> bytes:
    """A fat binary with machine code (kind 2) or PTX (kind 1) for these architectures, as by nvcc."""
    payload = b"\x7fELF" if kind == 2 else b".version 9.0\n"
    entries = b"".join(
        struct.pack("<HHIQIIIIIIQQQ", kind, 0x101, 64, len(payload), 0, 0, 0, arch, 0, 0, 0x11, 0, 0)
        + payload
        for arch in archs
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


def library(code: bytes | None, machine: str = "x86_64") -> bytes:
    """A shared library of nothing but headers, and GPU code where given."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    body = code or b""
    table = 64 + len(body) + len(names)
    sections = [(0, 0, 0, 0), (1, 1, 64, len(body)), (12, 3, 64 + len(body), len(names))]
    if code is None:
        sections[1] = (0, 0, 0, 0)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, MACHINES[machine], 1, 0, 0, table, 0, 64, 56, 0, 64, 3, 2
    )
    rows = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, 0, 0, 1, 0)
        for name, kind, at, size in sections
    )
    return head + body + names + rows


def wheel(
    folder: Path, *, name: str = "flash_attn", version: str = "2.8.3", tag: str = "cp313-cp313-linux_x86_64",
    says: str | None = None, library: bytes | None = None,
) -> Path:  # fmt: skip
    """A wheel's file. `says`: the Name and Version of its METADATA, where they differ from the file's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    about = says or f"Name: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w") as made:
        for inner, body in (
            (f"{name}/__init__.py", b"made_by_hand = True\n"),
            *([(f"{name}_cuda.so", library)] if library else []),
            (f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\n{about}".encode()),
            (f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n".encode()),
            (f"{name}-{version}.dist-info/RECORD", b""),
        ):
            made.writestr(zipfile.ZipInfo(inner), body)
    return path


def sha256(path: Path) -> str:
    return digest_file(path).removeprefix("sha256:")


def host_tag() -> str:
    """The tag of a wheel for an image for amd64 on the bootstrapped base of this host's distribution."""
    python = bases.load("bootstrap", planning.distribution()).python.replace(".", "")
    return f"cp{python}-cp{python}-linux_x86_64"


def taken(path: Path | str, hexdigest: str) -> int:
    """The exit code of the command that takes a published wheel for such an image."""
    return cli.main(["image", "wheel", "flash-attn", "--arch", "h100", "--platform", "linux/amd64",
                     "--base", "bootstrap", "--from", str(path), "--sha256", hexdigest])  # fmt: skip
