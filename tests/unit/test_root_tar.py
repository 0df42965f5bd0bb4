"""Root file systems put together from tars."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from containers.root_tar import RootTar
from kit.errors import BuildError


def tar(path: Path, *members: tuple[str, str, bytes | str]) -> tarfile.TarFile:
    """A tar of (name, kind, content or link)."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for number, (name, kind, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.type = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE,
                         "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}[kind]  # fmt: skip
            info.uname, info.mtime, info.uid = f"user{number}", 1000 + number, number
            if isinstance(content, str):
                info.linkname = content
                out.addfile(info)
            else:
                info.size = len(content)
                info.pax_headers = {"SCHILY.xattr.security.capability": "x", "comment": "mine"}
                out.addfile(info, io.BytesIO(content))
    return tarfile.open(path)


def names(path: Path) -> list[str]:
    with tarfile.open(path) as made:
        return made.getnames()


def test_merged_usr_and_hard_links(tmp_path: Path) -> None:
    made = RootTar()
    with tar(
        tmp_path / "a.tar",
        ("./", "dir", b""), ("./bin", "dir", b""), ("./bin/z", "file", b"content"),
        ("./bin/a", "hard", "./bin/z"), ("./lib64", "link", "usr/lib64"), ("./dev/null", "device", b""),
    ) as source:  # fmt: skip
        made.add(source, merged=True)
        made.link("bin", "usr/bin")
        made.link("usr/bin/z", "elsewhere")
        made.write(tmp_path / "out.tar")
    assert names(tmp_path / "out.tar") == ["bin", "usr/bin", "usr/bin/a", "usr/bin/z"]
    with tarfile.open(tmp_path / "out.tar") as out:
        for name in ("usr/bin/a", "usr/bin/z"):
            file = out.extractfile(name)
            assert out.getmember(name).isreg() and file and file.read() == b"content"
        member = out.getmember("usr/bin/z")
        assert member.pax_headers == {"SCHILY.xattr.security.capability": "x"}
        assert (member.uname, member.uid, member.mtime) == ("", 2, 1002)


def test_nothing_of_the_maker_and_nothing_unread(tmp_path: Path) -> None:
    made = RootTar()
    left = [
        "etc/hosts",
        "usr/share/doc/x/copyright",
        "var/log",
        "usr/share/zoneinfo/UTC",
        "etc/apt/apt.conf.d/01x",
    ]
    gone = [
        "etc/apt/sources.list", "etc/apt/sources.list.d/0000x.list", "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/hostname", "etc/resolv.conf", "etc/passwd-", "var/log/dpkg.log", "var/lib/apt/lists/mirror",
        "var/cache/apt/pkgcache.bin", "usr/share/doc/x/README", "usr/share/man/man1/x.1", "tmp/hook",
    ]  # fmt: skip
    with tar(tmp_path / "a.tar", *((f"./{name}", "file", b"x") for name in left + gone)) as source:
        made.add(source)
        made.write(tmp_path / "out.tar")
    assert sorted(names(tmp_path / "out.tar")) == sorted(left)


def test_made_by_hand(tmp_path: Path) -> None:
    made = RootTar()
    made.text("etc/x", "one")
    made.text("etc/x", "two", 0o600)
    made.folder("tmp", 0o1777)
    made.folder("etc/x", 0o700)
    made.write(tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as out:
        assert [(m.name, oct(m.mode)) for m in out] == [("etc/x", "0o600"), ("tmp", "0o1777")]
    assert made.read("etc/x") == b"two"
    assert list(made.matching("etc/.*")) == ["etc/x"]
    with pytest.raises(BuildError, match="holds no /etc/y"):
        made.read("etc/y")
