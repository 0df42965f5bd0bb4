"""Root file systems from the machine's own distribution packages: a base image without any registry.

For the machine's own platform mmdebstrap installs the packages, maintainer scripts and all. For a foreign one
nothing of it is run: the packages' files are put together, and what their scripts would have made and images
need is made by hand (`_by_hand`). dpkg's database then lists the packages as unpacked, for those who read it;
apt in such a root cannot go on from there.

No mirror, proxy or host name of this machine remains in the result: its sources.list only says so.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from containers import apt
from containers.apt import Update, host_distribution
from containers.root_tar import MTIME, RootTar
from kit import files, process
from kit.errors import HostError
from kit.nouns import Base, Platform

__all__ = ["check", "host_distribution", "root"]

SOURCES = """\
# No sources: this root was made from its maker's own mirror, which is not recorded here.
# Write your distribution's or your site's mirror here before using apt.
"""
_CARRIED = re.compile(
    r"(?im)^(Acquire::(https?|ftp)::(\S+::)?(Proxy\S*|CaInfo|CaPath|SslCert|SslKey|Verify-\S+)"
    r"|Acquire::(Check-Valid-Until|Check-Date|Retries)) .*;$"
)


def root(base: Base, platform: Platform, out: Path, update: Update) -> None:
    """Writes a tar of a minimal root file system with `base.packages` at `out`, atomically.

    Equal packages give equal bytes. As root, or as a user with subordinate ids; a foreign platform needs
    neither. HostError or MissingToolError where this machine cannot.
    """
    sources = apt.sources(base.distribution, base.suite, platform)
    native = platform == Platform.host()
    if native:
        check()
    with files.beside(out.with_name(f"{out.name}.work")) as work, files.beside(out) as temporary:
        work.mkdir(mode=0o755)
        made = RootTar()
        with contextlib.ExitStack() as opened, files.space_named(out):
            if native:
                opened.enter_context(_installed(base, sources, work, made, update))
            else:
                opened.enter_context(_unpacked(base, sources, work, made, update))
            made.text("etc/apt/sources.list", SOURCES)
            made.text("etc/machine-id", "")
            for name, mode in (("dev", 0o755), ("proc", 0o755), ("sys", 0o755), ("tmp", 0o1777)):
                made.folder(name, mode)
            made.write(temporary)
        files.settle(temporary, out)


def check() -> None:
    """MissingToolError or HostError where this user cannot make a root file system for this machine."""
    process.find("mmdebstrap", "apt-get install mmdebstrap")
    if os.geteuid() == 0:
        return
    process.find("newuidmap", "apt-get install uidmap")
    user = pwd.getpwuid(os.geteuid()).pw_name
    for name in ("subuid", "subgid"):
        file = Path("/etc") / name
        lines = file.read_text().splitlines() if file.exists() else []
        if not any(line.split(":")[0] in (user, str(os.geteuid())) for line in lines):
            raise HostError(
                f"{user} has no range in /etc/{name}, which a root file system made without root needs",
                f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
            )


@contextlib.contextmanager
def _installed(base: Base, sources: apt.Sources, work: Path, made: RootTar, update: Update) -> Iterator[None]:
    """mmdebstrap's own result, opened."""
    tar = work / "root.tar"
    included = [f"--include={','.join(base.packages)}"] if base.packages else []
    argv = [
        "mmdebstrap", "--mode=root" if os.geteuid() == 0 else "--mode=unshare",
        "--variant=minbase", "--format=tar", f"--architectures={sources.platform.arch}",
        "--skip=output/dev,output/mknod", *included,
    ]  # fmt: skip
    lines: list[str] = []

    def seen(line: str) -> None:
        lines.append(line)
        update(line)

    # The fixed time also makes Python's byte code in the root hold for any time of its sources.
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(MTIME), "LC_ALL": "C.UTF-8"}
    with _told(sources) as (options, listed):
        argv += [f"--aptopt={options}", sources.suite, str(tar), str(listed)]
        if process.stream(argv, what="make the root file system", on_line=seen, env=env, check=False):
            raise apt.refused(lines, sources)
    with tarfile.open(tar) as opened:
        made.add(opened)
        yield


@contextlib.contextmanager
def _told(sources: apt.Sources) -> Iterator[tuple[Path, Path]]:
    """The files with apt's options and sources: in files, since a proxy's password must not be in argv.

    In unshare mode they are read by a subordinate user: who is not root may not even enter one's own home, so
    they lie in the temporary folder, and hold nothing that this user could not read to begin with.
    """
    with tempfile.TemporaryDirectory(prefix="slipworks-root-") as name:
        folder, private = Path(name), os.geteuid() == 0
        folder.chmod(0o700 if private else 0o755)
        options, listed = folder / "apt.conf", folder / "sources.list"
        files.write(options, _apt_options(), mode=0o600 if private else 0o644)
        files.write(listed, sources.text, mode=0o644)
        yield options, listed


def _apt_options() -> str:
    """The host's proxies, certificates and credentials, as apt inside the new root is to use them."""
    told = process.run(["apt-config", "dump"], what="read apt's configuration", error=HostError)
    lines = [match[0] for match in _CARRIED.finditer(told.out)]
    credentials = ['Dir::Etc::netrc "/etc/apt/auth.conf";', 'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";']
    return "\n".join([*lines, *credentials, ""])


@contextlib.contextmanager
def _unpacked(base: Base, sources: apt.Sources, work: Path, made: RootTar, update: Update) -> Iterator[None]:
    """The files of the same packages, with nothing run."""
    with apt.opened(sources, update) as opened:
        debs = opened.download_closure(["?essential", "apt", *base.packages], work / "debs", update)
    with contextlib.ExitStack() as tars:
        fields = []
        for number, deb in enumerate(debs):
            tar = work / f"{number}.tar"
            process.stream(
                ["dpkg-deb", "--fsys-tarfile", deb], what=f"read {deb.name}", on_line=update, stdout=tar
            )
            made.add(tars.enter_context(tarfile.open(tar)), merged=True)
            fields.append(process.run(["dpkg-deb", "--field", deb], what=f"read {deb.name}").out)
        _by_hand(made, fields)
        yield


def _by_hand(made: RootTar, packages: list[str]) -> None:
    """What the packages' scripts would have made and an image needs."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if f"usr/{name}" in made.entries:
            made.link(name, f"usr/{name}")
    for name in ("passwd", "group"):
        made.text(f"etc/{name}", made.read(f"usr/share/base-passwd/{name}.master"))
    users = made.read("etc/passwd").decode().splitlines()
    made.text("etc/shadow", "".join(f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in users), 0o640)
    certificates = list(made.matching(r"usr/share/ca-certificates/.*\.crt"))
    if certificates:
        made.text("etc/ssl/certs/ca-certificates.crt", b"".join(map(made.read, certificates)))
    if "usr/bin/mawk" in made.entries:
        made.link("usr/bin/awk", "mawk")
    for name in ("home", "media", "mnt", "opt", "srv"):
        made.folder(name)
    made.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    for path in made.matching(r"usr/share/(libc-bin|base-files)/nsswitch\.conf"):
        made.text("etc/nsswitch.conf", made.read(path))
    status = [field.replace("\n", "\nStatus: install ok unpacked\n", 1) for field in sorted(packages)]
    made.text("var/lib/dpkg/status", "\n".join(status))
