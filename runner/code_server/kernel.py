"""What a cage asks of the kernel that Python does not offer everywhere: by ctypes, each may be refused."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
from pathlib import Path

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE = 1024, 2048, 4096, 16384, 1 << 18
MS_RELATIME = 1 << 21
MNT_DETACH = 2
FLAGS = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "noatime": MS_NOATIME,
         "nodiratime": MS_NODIRATIME, "relatime": MS_RELATIME}  # fmt: skip
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a folder
FILES = (1 << 13) - 1  # all that the first version knows
REFER, TRUNCATE, IOCTL = 1 << 13, 1 << 14, 1 << 15
ON_A_FILE = 1 << 0 | 1 << 1 | 1 << 2 | TRUNCATE | IOCTL

_libc = ctypes.CDLL(None, use_errno=True)


def _asked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    _asked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [os.fsencode(each) if each else None for each in (source, target, kind, data)]
    made = _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    _asked(made, f"mount {source} on {target}")


def pivot(root: str) -> None:
    """Makes `root` the root, with nothing left of the one before. OSError on architectures not known here."""
    number = PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"pivot_root on {platform.machine()}")
    os.chdir(root)
    _asked(_libc.syscall(number, b".", b"."), "pivot_root")
    _asked(_libc.umount2(b".", MNT_DETACH), "umount the former root")
    os.chdir("/")


def prctl(option: int, value: int) -> None:
    _asked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def make_read_only(below: str) -> None:
    """Every mount at and below a path, keeping what else holds of it: a kernel lets nobody take that away."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        words = line.split(" ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), words[4])
        if point == below or point.startswith(f"{below}/"):
            flags = sum(FLAGS.get(each, 0) for each in set(words[5].split(",")) - {"ro"})
            mount("none", point, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | (flags & ~MS_NOSUID))


def landlock_version() -> int:
    """0: this kernel has none, or it is switched off."""
    return max(0, int(_libc.syscall(LANDLOCK_CREATE, None, 0, 1)))


def landlock(reading: list[str], writing: list[str]) -> None:
    """From here on this process and its children open nothing else, and connect by TCP (kernel 6.7), signal
    and reach abstract sockets outside (6.12) no more. OSError where the kernel has no Landlock."""
    version = landlock_version()
    files = FILES | (REFER if version > 1 else 0) | (TRUNCATE if version > 2 else 0)
    files |= IOCTL if version > 4 else 0
    asked = struct.pack("QQQ", files, 3 if version > 3 else 0, 3 if version > 5 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _asked(_libc.syscall(LANDLOCK_CREATE, asked, ctypes.c_size_t(size), 0), "landlock")
    for paths, allowed in ((reading, READ), (writing, files)):
        for path in paths:
            _allow(rules, path, allowed)
    _asked(_libc.syscall(LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)


def _allow(rules: int, path: str, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not Path(path).is_dir():
        allowed &= ON_A_FILE
    rule = struct.pack("=Qi", allowed, place)
    _asked(_libc.syscall(LANDLOCK_ADD, rules, 1, rule, 0), f"landlock {path}")
    os.close(place)
