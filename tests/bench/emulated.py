"""The cpu line for arm64 on x86: assembled by native programs, beside the same run under QEMU. Prints only.

    .venv/bin/python -m tests.bench.emulated

Needs root, qemu-user-static and mmdebstrap. The emulated run is what an engine would do for the foreign
platform: distribution packages with their maintainer scripts, then templates/install.sh, in a mount and user
namespace that alone has the binfmt handler. It takes forty minutes; wheels are downloaded by both.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from containers import secrets
from definitions import bases, lines
from kit import settings
from kit.nouns import Platform
from tests.bench.images import ROOT, build, busy, parts, processors, row

# What ELF files for arm64 begin with, and which of those bytes count; F: the interpreter is opened now.
HANDLER = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    r":/usr/bin/qemu-aarch64-static:F"
)
BINFMT = Path("/proc/sys/fs/binfmt_misc")
ENTER = (
    'mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && printf %s "$1" >/proc/sys/fs/binfmt_misc/register'
)


@contextlib.contextmanager
def emulating() -> Iterator[list[str]]:
    """Words before a command that then runs programs of arm64; nothing is registered for the rest."""
    holder = subprocess.Popen(
        ["unshare", "--user", "--mount", "--propagation=private", "sh", "-c", "echo ready; exec sleep 7200"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{holder.pid}/{name}").write_text("0 0 65536")
    enter = ["nsenter", "--user", "--mount", f"--target={holder.pid}"]
    try:
        subprocess.run([*enter, "sh", "-c", ENTER, "sh", HANDLER], check=True)
        yield enter
    finally:
        holder.terminate()
        holder.wait()


def emulated(work: Path, enter: list[str], native: float) -> tuple[float, float]:
    """Seconds of the distribution packages, told at once, and of the stack. native: of the other build."""
    base, line, arm = bases.load("bootstrap"), lines.load("cpu"), Platform("arm64")
    root = work / "root"
    began = time.monotonic()
    packages = f"--include={','.join(base.packages)}"
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--architectures=arm64", packages]
    subprocess.run([*enter, *argv, "--skip=output/dev,output/mknod", base.suite, root], check=True)
    rooted = time.monotonic()
    row("the same under QEMU: distribution packages alone", rooted - began, (rooted - began) / native)
    given = root / "build"
    (root / "run/secrets").mkdir(parents=True)
    given.mkdir()
    lock = line.lock(arm, base.python)
    for file in (ROOT / "definitions/templates/install.sh", ROOT / "definitions/tools/build.lock", lock):
        shutil.copy(file, given)
    with secrets.gathered() as found:
        for name, path in (("index", found.index), ("ca", found.ca)):
            if path:
                shutil.copy(path, root / "run/secrets" / name)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    shutil.copy("/etc/hosts", root / "etc/hosts")
    tag = lock.name.removesuffix("-arm64.lock")
    words = ["/bin/sh", "/build/install.sh", base.interpreter, tag, "arm64", line.glibc, *line.source]
    # As engines mount them. Nodes cannot be made in here, and uv without /dev/null says: no interpreter.
    for name in ("dev", "proc"):
        subprocess.run([*enter, "mount", "--rbind", f"/{name}", root / name], check=True)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    subprocess.run([*enter, "chroot", root, *words], check=True, env=env | proxies, stdout=subprocess.DEVNULL)
    return rooted - began, time.monotonic() - rooted


def main() -> None:
    if os.geteuid() != 0 or not shutil.which("qemu-aarch64-static") or not shutil.which("mmdebstrap"):
        raise SystemExit("needs root, and: apt-get install qemu-user-static mmdebstrap")
    if (BINFMT / "qemu-aarch64").exists():
        raise SystemExit("a handler is registered for the whole machine: the comparison would mean nothing")
    above = settings.load().settings.cache_folder
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=above) as name:
        work = Path(name)
        took, told = build(work / "cache", "cpu", "--platform=linux/arm64")
        used = processors()
        row("cpu for linux/arm64, cold, no emulation", took, 1.0, f"{busy(used)}; {parts(told)}")
        with emulating() as enter:
            rooted, installed = emulated(work, enter, took)
        slow = rooted + installed
        more = f"{busy(processors() - used)}; packages {rooted:.0f}, stack {installed:.0f}"
        row("the same under QEMU", slow, slow / took, more)


if __name__ == "__main__":
    main()
