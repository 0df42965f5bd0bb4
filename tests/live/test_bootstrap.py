"""Root file systems from the machine's own packages."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import apt, bootstrap, elf
from kit import process
from kit.errors import HostError, MissingToolError, NotFoundError
from kit.nouns import Platform, digest_file
from tests.live.parts_roots import base, need_apt, quiet

pytestmark = pytest.mark.live
Rooted = Callable[[str], Path]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Platform, Path]:
    """A root for the other platform, which nothing here could run."""
    need_apt()
    platform = Platform("amd64" if Platform.host().arch == "arm64" else "arm64")
    out = tmp_path_factory.mktemp("foreign") / "root.tar"
    bootstrap.root(base("trixie", ("ca-certificates", "python3.13")), platform, out, quiet)
    return platform, out


def test_foreign_root_is_whole_and_for_its_machine(foreign: tuple[Platform, Path], tmp_path: Path) -> None:
    platform, tar = foreign
    process.run(["tar", "-C", tmp_path, "-xf", tar], what="unpack a root")
    tree = elf.Tree(tmp_path)
    files = list(tree.files("/usr"))
    assert {tree.read(path).machine for path in files} == {platform.machine}
    folders = [f"/usr/lib/{platform.machine}-linux-gnu", "/usr/lib"]
    assert tree.missing("/usr/bin", folders) == {}
    for program in ("/bin/sh", "/usr/bin/awk", "/usr/bin/python3.13"):
        found = tree.real(program)
        assert found and elf.is_elf(found), program
        assert tree.real(tree.read(found).interpreter or "")
    assert (tmp_path / "etc/passwd").read_text().startswith("root:")
    bundle = tree.real("/usr/lib/ssl/cert.pem")
    assert bundle and bundle.read_text().count("BEGIN CERTIFICATE") > 100
    assert "Package: libc6\nStatus: install ok unpacked\n" in (tmp_path / "var/lib/dpkg/status").read_text()


def test_equal_packages_equal_bytes(foreign: tuple[Platform, Path], tmp_path: Path) -> None:
    again = tmp_path / "another 'folder'" / "root.tar"
    bootstrap.root(base("trixie", ("ca-certificates", "python3.13")), foreign[0], again, quiet)
    assert digest_file(again) == digest_file(foreign[1])
    assert [path.name for path in again.parent.iterdir()] == ["root.tar"]


def hosts() -> set[str]:
    """The names of the mirrors that this machine's apt uses."""
    told = process.run(["apt-get", "indextargets", "--format", "$(SITE)"], what="list mirrors").out
    return {found[1] for found in re.finditer(r"//(?:[^/@\s]*@)?([^/:\s]+)", told)}


def test_nothing_of_this_machine_remains(
    foreign: tuple[Platform, Path], rooted: Rooted, tmp_path: Path
) -> None:
    process.run(["tar", "-C", tmp_path, "-xf", foreign[1]], what="unpack a root")
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
    chroot = process.find("chroot", "apt-get install coreutils")
    script = "import ssl, sys, os; print(sys.version_info[:2], os.listdir('/dev'))"
    told = process.run([chroot, rooted("trixie"), "/usr/bin/python3.13", "-c", script], what="run it")
    assert told.out == "(3, 13) []\n"
    told = process.run([chroot, rooted("bullseye"), "/usr/bin/python3", "--version"], what="run it")
    assert told.out.startswith("Python 3.9.")


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    need_apt()
    for platform in (Platform("amd64"), Platform("arm64")):
        with pytest.raises(NotFoundError, match="there is no slipworks-no-such-package"):
            bootstrap.root(base("trixie", ("slipworks-no-such-package",)), platform, tmp_path / "r", quiet)
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


def test_a_user_without_subordinate_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_apt()
    uid = pwd.getpwnam("nobody").pw_uid
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(HostError, match="nobody has no range in /etc/subuid") as told:
        bootstrap.root(base("trixie"), Platform.host(), tmp_path / "r", quiet)
    assert told.value.hint == "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 nobody"


def test_an_unsigned_mirror_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyring that does not hold the archive's key: nothing is taken."""
    need_apt()
    empty = tmp_path / "empty.gpg"
    empty.touch()
    monkeypatch.setattr(apt, "_keyrings", lambda own, distribution: [str(empty)])
    given = apt.sources("debian", "trixie", Platform.host())
    with (
        pytest.raises(HostError, match="signed by a key this machine does not know"),
        apt.opened(given, quiet),
    ):
        pass
