"""Root file systems put together from tars."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from containers.root_tar import MERGED, RootTar
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
        made.add(source)
        made.link("usr/bin/z", "elsewhere")
        made.write(tmp_path / "out.tar")
    assert names(tmp_path / "out.tar") == ["bin", "lib", "lib64", "sbin", "usr/bin/a", "usr/bin/z"]
    with tarfile.open(tmp_path / "out.tar") as out:
        assert {name: out.getmember(name).linkname for name in ("bin", "lib64")} == {
            "bin": "usr/bin", "lib64": "usr/lib64",
        }  # fmt: skip
        file = out.extractfile("usr/bin/z")
        assert file and file.read() == b"content"
        assert out.getmember("usr/bin/z").islnk() and out.getmember("usr/bin/z").linkname == "usr/bin/a"
        member = out.getmember("usr/bin/a")
        assert member.isreg() and (member.uname, member.uid, member.mtime) == ("", 3, 1003)


def test_capabilities_stay_and_no_other_header(tmp_path: Path) -> None:
    made = RootTar()
    with tar(tmp_path / "a.tar", ("./usr/bin/ping", "file", b"x")) as source:
        made.add(source)
        made.write(tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as out:
        assert out.getmember("usr/bin/ping").pax_headers == {"SCHILY.xattr.security.capability": "x"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A root on disk with merged /usr, an absolute link, and a link that leads out of it if followed here."""
    root = tmp_path / "base"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/lib").mkdir()
    (root / "run").mkdir()
    (root / "var").mkdir()
    (root / "etc").mkdir()
    (root / "etc/here").write_text("of the base")
    for name, target in (
        ("bin", "usr/bin"),
        ("lib", "usr/lib"),
        ("var/run", "/run"),
        ("etc/up", "../../etc"),
    ):
        (root / name).symlink_to(target)
    return root


def test_upon_a_base_links_and_folders_stay(base: Path, tmp_path: Path) -> None:
    made = RootTar(base)
    with tar(
        tmp_path / "a.tar",
        ("./bin", "dir", b""), ("./bin/new", "file", b"1"), ("./lib", "link", "usr/lib"),
        ("./var", "dir", b""), ("./var/run", "dir", b""), ("./var/run/x", "file", b"2"),
        ("./usr/lib", "link", "lib64"), ("./usr/share", "dir", b""), ("./etc/up/host", "file", b"3"),
    ) as source:  # fmt: skip
        made.add(source)
        made.link("etc/here", "nowhere")
        made.folder("run", 0o700)
        made.write(tmp_path / "out.tar")
    assert names(tmp_path / "out.tar") == ["etc/host", "run/x", "usr/bin/new", "usr/share"]


def test_upon_a_base_reading_sees_both(base: Path, tmp_path: Path) -> None:
    made = RootTar(base)
    made.text("bin/tool", "new")
    made.link("etc/tool", "/usr/bin/tool")
    assert made.read("etc/here") == b"of the base" and made.read("etc/up/here") == b"of the base"
    assert made.read("etc/tool") == b"new" and made.real("/etc/tool") == "usr/bin/tool"
    assert made.names("etc") == ["here", "tool", "up"] and made.names("bin") == ["tool"]
    assert made.is_file("etc/tool") and made.is_link("etc/tool") and made.is_folder("var/run")
    assert made.real("etc/nothing") is None and not made.is_file("usr")
    made.text("etc/here", "over it")
    assert made.read("etc/here") == b"over it"


def test_a_file_where_the_base_has_a_folder(base: Path, tmp_path: Path) -> None:
    with (
        tar(tmp_path / "a.tar", ("./var", "file", b"x")) as source,
        pytest.raises(BuildError, match="/var is a folder, and a package brings a file of that name"),
    ):
        RootTar(base).add(source)


def test_links_in_a_circle(base: Path) -> None:
    made = RootTar(base)
    made.link("one", "two")
    made.link("two", "one")
    with pytest.raises(BuildError, match="too many links on the way to /"):
        made.read("one")


def test_unpacking_some(tmp_path: Path) -> None:
    made = RootTar()
    made.text("usr/bin/a", "program", 0o4755)
    made.text("usr/lib/b", "not wanted")
    made.link("usr/bin/c", "a")
    made.unpack(tmp_path / "out", lambda path: path.startswith("usr/bin/"))
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")) == [
        "usr", "usr/bin", "usr/bin/a", "usr/bin/c",
    ]  # fmt: skip
    assert (tmp_path / "out/usr/bin/c").read_text() == "program"
    assert (tmp_path / "out/usr/bin/a").stat().st_mode & 0o7777 == 0o755


def test_nothing_of_the_maker_and_nothing_unread(tmp_path: Path) -> None:
    made = RootTar()
    left = [
        "etc/hosts",
        "usr/share/doc/x/copyright",
        "var/log",
        "usr/lib/python3.13/config-3.13-x86_64-linux-gnu/Makefile",
        "usr/share/zoneinfo/UTC",
        "etc/apt/apt.conf.d/01x",
    ]
    gone = [
        "etc/apt/sources.list", "etc/apt/sources.list.d/0000x.list", "etc/apt/auth.conf", "etc/hostname",
        "etc/resolv.conf", "etc/passwd-", "var/log/dpkg.log", "var/lib/apt/lists/mirror",
        "var/cache/apt/pkgcache.bin", "usr/share/doc/x/README", "usr/share/man/man1/x.1", "tmp/hook",
        "usr/lib/python3.13/config-3.13-x86_64-linux-gnu/libpython3.13-pic.a",
    ]  # fmt: skip
    with tar(tmp_path / "a.tar", *((f"./{name}", "file", b"x") for name in left + gone)) as source:
        made.add(source)
        made.write(tmp_path / "out.tar")
    assert sorted(names(tmp_path / "out.tar")) == sorted([*left, *MERGED])


def test_made_by_hand(tmp_path: Path) -> None:
    made = RootTar(tmp_path / "an empty base")
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
