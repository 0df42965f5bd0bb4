"""Root file systems from the machine's own packages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import apt, bootstrap, dpkg, elf, ld_cache
from kit import process
from kit.errors import HostError, MissingToolError, NotFoundError
from kit.nouns import Platform, digest_file
from tests.live.needs import need
from tests.live.parts_engines import User
from tests.live.parts_roots import (
    CARRIED,
    CERTIFIED,
    FOREIGN,
    NATIVE,
    base,
    enter,
    need_apt,
    need_root,
    quiet,
    reaching,
    unpack,
)

pytestmark = pytest.mark.live
Rooted = Callable[[str], Path]


def test_foreign_root_is_whole_and_for_its_machine(foreign: Path, tmp_path: Path) -> None:
    unpack(foreign, tmp_path)
    tree = elf.Tree(tmp_path)
    files = list(tree.files("/usr"))
    assert {tree.read(path).machine for path in files} == {FOREIGN.machine}
    folders = [f"/usr/lib/{FOREIGN.machine}-linux-gnu", "/usr/lib"]
    assert tree.missing("/usr/bin", folders) == {}
    for program in ("/bin/sh", "/usr/bin/awk", "/usr/bin/which", "/usr/bin/python3.13"):
        assert tree.real(program), program
    found = tree.real("/usr/bin/python3.13")
    assert found and tree.real(tree.read(found).interpreter or "")
    assert (tmp_path / "etc/passwd").read_text().startswith("root:x:0:0:")
    bundle = tree.real("/usr/lib/ssl/cert.pem")
    assert bundle and bundle.read_text().count("BEGIN CERTIFICATE") > 100
    status = (tmp_path / dpkg.STATUS).read_text()
    assert "Package: libc6\nStatus: install ok unpacked\n" in status
    code = tmp_path / "usr/lib/python3.13/__pycache__/ssl.cpython-313.pyc"
    assert code.read_bytes()[4:8] == b"\3\0\0\0", "byte code that is checked by its source's hash"


def test_foreign_loader_cache(foreign: Path, tmp_path: Path) -> None:
    """This machine's ldconfig reads it; where the other machine's can be run, it makes the same."""
    unpack(foreign, tmp_path)
    cache = tmp_path / "etc/ld.so.cache"
    entries = ld_cache.decode(cache.read_bytes())
    told = process.run(["/sbin/ldconfig", "-p", "-C", cache], what="read the cache").out.splitlines()
    assert f"{len(entries)} libs found" in told[0]
    folder = f"/lib/{FOREIGN.machine}-linux-gnu"
    word = {"arm64": "AArch64", "amd64": "x86-64"}[FOREIGN.arch]
    assert f"\tlibc.so.6 (libc6,{word}) => {folder}/libc.so.6" in told
    emulator = shutil.which(f"qemu-{FOREIGN.machine}-static")
    need(emulator, "qemu-user-static is not installed")
    assert emulator
    (tmp_path / "etc/theirs").touch()
    argv = [emulator, tmp_path / "usr/sbin/ldconfig", "-X", "-r", tmp_path, "-C", "/etc/theirs"]
    process.run(argv, what="run the other machine's ldconfig")
    theirs = process.run(["/sbin/ldconfig", "-p", "-C", tmp_path / "etc/theirs"], what="read theirs").out
    assert [line for line in told[1:]] == [line for line in theirs.splitlines()[1:] if line.startswith("\t")]


def test_no_root_needed_and_equal_bytes(foreign: Path, ordinary_user: User) -> None:
    """An ordinary user, in another folder, gets the same root, byte by byte."""
    again = ordinary_user.folder / "another 'folder'" / "root.tar"

    def build() -> tuple[str, list[str]]:
        bootstrap.root(base("trixie", CERTIFIED), FOREIGN, again, quiet)
        return digest_file(again), [path.name for path in again.parent.iterdir()]

    assert ordinary_user.do(build) == (digest_file(foreign), ["root.tar"])


def hosts() -> set[str]:
    """The names of the mirrors that this machine's apt uses."""
    told = process.run(["apt-get", "indextargets", "--format", "$(SITE)"], what="list mirrors").out
    return {found[1] for found in re.finditer(r"//(?:[^/@\s]*@)?([^/:\s]+)", told)}


def test_nothing_of_this_machine_remains(foreign: Path, rooted: Rooted, tmp_path: Path) -> None:
    unpack(foreign, tmp_path)
    mirrors = {name.encode() for name in hosts()}
    assert mirrors
    for root in (tmp_path, rooted("trixie")):
        assert not (root / "etc/resolv.conf").exists()
        assert (root / "etc/apt/sources.list").read_text().startswith("# No sources")
        assert not list((root / "etc/apt/sources.list.d").glob("*"))
        for path in [*(root / "etc").rglob("*"), *(root / "var").rglob("*")]:
            if path.is_file() and not path.is_symlink():
                text = path.read_bytes()
                named = [name for name in mirrors if name in text]
                assert not named, f"{path} names {named}"


def test_native_root_works(rooted: Rooted) -> None:
    script = "import sys, os; print(sys.version_info[:2], os.listdir('/opt'))"
    assert enter(rooted("trixie"), f'python3.13 -c "{script}"') == "(3, 13) []\n"
    assert enter(rooted("bullseye"), "python3 --version").startswith("Python 3.9.")
    assert enter(rooted("trixie"), "su nobody -s /bin/sh -c 'id -un'; which awk").split() == [
        "nobody", "/usr/bin/awk",
    ]  # fmt: skip


def test_apt_goes_on_from_it(rooted: Rooted, tmp_path: Path) -> None:
    """In a native root, with sources: it configures what was only unpacked, and installs more."""
    need_root()
    root = tmp_path / "root"
    process.run(["cp", "-a", rooted("trixie"), root], what="copy a root")
    reaching(root)
    install = "apt-get -q update && apt-get -qy --no-install-recommends install hello"
    enter(root, install, DEBIAN_FRONTEND="noninteractive")
    assert enter(root, "hello; dpkg --audit; apt-get check -q | tail -1").startswith("Hello, world!\n")
    assert "unpacked" not in (root / dpkg.STATUS).read_text().replace("Unpacked", "")
    assert "\nStatus: auto\n" in enter(root, "update-alternatives --query awk")


# What scripts make and no image of ours needs: notes of what was done, settings for what is not there.
NOT_MADE = re.compile(
    r"etc/(alternatives/.*|.*-|\.pwd\.lock|fstab|hostname|localtime|opt|resolv\.conf|security/opasswd|sub[gu]id"
    r"|dpkg/origins/default|systemd/system/timers\..*|apt/(apt\.conf\.d/99.*|sources\.list\.d/.*|auth.*)"
    r"|rmt|rc.\.d.*|rmt)|usr/(bin/nawk|sbin/rmt|local/.*)"
    r"|usr/share/(man|info|locale|lintian|linda|bug|doc-base|groff|doc|zoneinfo)(/.*)?|.*/__pycache__(/.*)?"
)


def test_as_mmdebstrap_makes_it(rooted: Rooted, tmp_path: Path) -> None:
    """Somebody else's work: the same packages with all their scripts run. Theirs lacks nothing of ours, and
    ours lacks only what is named above; files that both have are the same ones."""
    need_root()
    need(shutil.which("mmdebstrap"), "mmdebstrap is not installed (apt-get install mmdebstrap)")
    sources, options = tmp_path / "sources.list", tmp_path / "apt.conf"
    sources.write_text(apt.sources("debian", "trixie", NATIVE).text)
    dumped = process.run(["apt-config", "dump"], what="read apt's configuration").out
    options.write_text("\n".join([*(match[0] for match in CARRIED.finditer(dumped)), ""]))
    theirs, ours = tmp_path / "theirs", rooted("trixie")
    argv = [
        "mmdebstrap", "--mode=root", "--variant=minbase", "--include=python3-minimal", f"--aptopt={options}",
        "trixie", theirs, sources,
    ]  # fmt: skip
    process.stream(argv, what="make a root with mmdebstrap", on_line=quiet)
    there = {str(path.relative_to(theirs)) for top in ("etc", "usr") for path in (theirs / top).rglob("*")}
    lacking = {path for path in there if not os.path.lexists(ours / path) and not NOT_MADE.fullmatch(path)}
    assert lacking == set()
    other = [
        path for path in there if path.startswith("usr/") and (ours / path).is_file()
        and not path.endswith(".pyc") and (ours / path).read_bytes() != (theirs / path).read_bytes()
    ]  # fmt: skip
    assert other == []
    for name in ("passwd", "group"):
        users = [set((root / "etc" / name).read_text().splitlines()) for root in (ours, theirs)]
        assert users[0] <= users[1]
    listed = [enter(root, "ldconfig -p | grep '=>'") for root in (ours, theirs)]
    assert listed[0] == listed[1], "ours is in the order that their ldconfig gave its own"


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    need_apt()
    with pytest.raises(NotFoundError, match="there is no slipworks-no-such-package"):
        bootstrap.root(base("trixie", ("slipworks-no-such-package",)), FOREIGN, tmp_path / "r", quiet)
    assert list(tmp_path.iterdir()) == []


def test_another_distribution() -> None:
    need_apt()
    with pytest.raises(HostError, match="this machine's are debian's"):
        bootstrap.root(base("noble"), Platform.host(), Path("unused"), quiet)


def test_without_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.host_distribution() is None
    with pytest.raises(MissingToolError, match="this machine has no apt"):
        bootstrap.root(base("trixie"), Platform.host(), tmp_path / "r", quiet)


def test_an_unsigned_mirror_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyring that does not hold the archive's key: nothing is taken."""
    need_apt()
    empty = tmp_path / "empty.gpg"
    empty.touch()
    monkeypatch.setattr(apt, "_keyrings", lambda *_: [str(empty)])
    given = apt.sources("debian", "trixie", Platform.host())
    with (
        pytest.raises(HostError, match="signed by a key this machine does not know"),
        apt.opened(given, quiet),
    ):
        pass
