"""dpkg's database and what packages' scripts would have made, by hand."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from containers import by_hand, dpkg
from containers.dpkg import Package
from containers.root_tar import RootTar

CERTIFICATE = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----"


def package(stanza: str, files: dict[str, str] | None = None, **control: str) -> Package:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, text in (files or {}).items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    raw.seek(0)
    return Package(
        stanza=stanza, control={name: text.encode() for name, text in control.items()},
        tar=tarfile.open(fileobj=raw), paths=("/.", *(f"/{name}" for name in files or {})),
    )  # fmt: skip


def put(made: RootTar, *packages: Package) -> None:
    for each in packages:
        made.add(each.tar)
    dpkg.record(made, list(packages))


def test_a_package_in_the_database() -> None:
    made = RootTar()
    put(made, package(
        "Package: tool\nArchitecture: all\nVersion: 1\nDescription: a tool\n more of it\n",
        {"etc/tool.conf": "setting\n"},
        conffiles="/etc/tool.conf\nremove-on-upgrade /etc/old.conf\n/etc/absent\n",
        postinst="#!/bin/sh\n", md5sums="",
    ))  # fmt: skip
    md5 = hashlib.md5(b"setting\n").hexdigest()
    assert made.read(dpkg.STATUS).decode() == (
        "Package: tool\nStatus: install ok unpacked\nArchitecture: all\nVersion: 1\nDescription: a tool\n"
        f" more of it\nConffiles:\n /etc/tool.conf {md5}\n"
    )
    assert made.read("var/lib/dpkg/info/tool.list") == b"/.\n/etc/tool.conf\n"
    modes = {path.rpartition("/")[2]: oct(info.mode) for path, (info, _) in made.entries.items()}
    assert (modes["tool.postinst"], modes["tool.conffiles"]) == ("0o755", "0o644")


def test_two_architectures_of_one_package() -> None:
    made = RootTar()
    put(made, package("Package: libx\nArchitecture: arm64\nMulti-Arch: same\n"))
    assert made.read("var/lib/dpkg/info/libx:arm64.list") == b"/.\n"


def test_newer_ones_replace_and_others_stay(tmp_path: Path) -> None:
    status = tmp_path / dpkg.STATUS
    status.parent.mkdir(parents=True)
    old = "Package: b\nStatus: install ok installed\nVersion: 1\n"
    status.write_text(f"Package: z\nStatus: deinstall ok config-files\n\n\n{old}")
    (tmp_path / dpkg.TRIGGERS).mkdir()
    (tmp_path / dpkg.TRIGGERS / "ldconfig").write_text("libc-bin\n")
    made = RootTar(tmp_path)
    new = package(
        "Package: b\nVersion: 2\nMulti-Arch: foreign\n",
        triggers="# told\ninterest-noawait ldconfig\ninterest /usr/lib/x\nactivate-noawait ldconfig\n",
    )
    put(made, new, package("Package: a\nVersion: 1\n", triggers="interest ldconfig\n"))
    assert [dpkg.field(each, "Package") for each in dpkg.stanzas(made.read(dpkg.STATUS).decode())] == [
        "a", "b", "z",
    ]  # fmt: skip
    assert b"Status: install ok unpacked\nVersion: 2" in made.read(dpkg.STATUS)
    assert b"Version: 1\n\nPackage: b" in made.read(dpkg.STATUS)
    assert made.read(f"{dpkg.TRIGGERS}/ldconfig") == b"libc-bin\na\nb/noawait\n"
    assert made.read(f"{dpkg.TRIGGERS}/File") == b"/usr/lib/x b\n"


def test_users_let_nobody_in() -> None:
    made = RootTar()
    for name in ("passwd", "group"):
        tail = ":root:/root:/bin/bash" if name == "passwd" else ":"
        made.text(
            f"usr/share/base-passwd/{name}.master", f"root:*:0:0{tail}\n" if tail != ":" else "root:*:0:\n"
        )
    by_hand.accounts(made)
    assert made.read("etc/passwd") == b"root:x:0:0:root:/root:/bin/bash\n"
    assert made.read("etc/group") == b"root:x:0:\n"
    assert made.read("etc/shadow") == b"root:*:19000:0:99999:7:::\n"
    info, _ = made.entries["etc/shadow"]
    assert (info.mode, info.gid) == (0o640, 42)


def test_general_names() -> None:
    made = RootTar()
    made.text("usr/bin/gcc-14", "", 0o755)
    made.link("usr/bin/gcc", "gcc-14")
    made.text("usr/bin/g++", "", 0o755)
    made.text("usr/bin/c++", "someone's own", 0o755)
    by_hand.alternatives(made)
    assert made.real("usr/bin/cc") == "usr/bin/gcc-14"
    assert made.entries["etc/alternatives/cc"][0].linkname == "/usr/bin/gcc"
    assert made.read("var/lib/dpkg/alternatives/cc") == b"auto\n/usr/bin/cc\n\n/usr/bin/gcc\n5\n\n"
    assert made.read("usr/bin/c++") == b"someone's own"
    assert made.real("usr/bin/awk") is None


def test_the_bundle_holds_each_certificate_whole() -> None:
    """One that lacks its last newline must not run into the next."""
    made = RootTar()
    made.text("usr/share/ca-certificates/mozilla/B.crt", CERTIFICATE.format("b"))
    made.text("usr/share/ca-certificates/mozilla/A.crt", CERTIFICATE.format("a") + "\n")
    by_hand.certificates(made)
    bundle = made.read("etc/ssl/certs/ca-certificates.crt").decode()
    assert bundle == f"{CERTIFICATE.format('a')}\n{CERTIFICATE.format('b')}\n"
    assert made.read("etc/ca-certificates.conf") == b"mozilla/A.crt\nmozilla/B.crt\n"
