"""The root that a tested program sees: made in a mount namespace of its own, of what is asked for alone."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from runner.code_server import kernel

SYSTEM = (
    "/bin", "/sbin", "/usr", "/lib", "/lib32", "/lib64", "/libx32",
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/mime.types", "/etc/python3",
)  # fmt: skip
"""Where images keep what a Python needs; its own folders come to it."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
TRIES = 100  # to take hold of a file that is replaced all the time
BASES = ("/tmp", "/mnt", "/dev/shm", "/run")  # one of them is covered, in this namespace alone


def build(see: list[str], hide: list[str], disk: int) -> None:
    """Makes the root and enters it. see: paths that are there, read-only; hide: what is empty even so.

    /tmp is all that can be written to, `disk` bytes of memory. OSError where the kernel refuses any of it,
    but for /proc: with some engines a container may not mount one, and then there is none.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # Held open, as the new root may cover where they are.
    sources = [(path, _opened(path)) for path in _apart(see) if _there(path)]
    there = [path for path in DEVICES if _there(path)]  # not all of them in every engine's containers
    devices = [(path, os.open(path, os.O_PATH)) for path in there]
    root = next(each for each in BASES if Path(each).is_dir())
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", root, "tmpfs", quiet, "size=1m,mode=755")
    for path, place in sources:
        _put_of_now(root, path, place)
        kernel.make_read_only(root + path)
    for path in hide:
        if Path(root + path).is_dir():
            kernel.mount("tmpfs", root + path, "tmpfs", quiet | kernel.MS_RDONLY, "size=4k,mode=755")
    for path, place in devices:
        _put(root, path, place)
        os.close(place)
    for name in ("tmp", "proc"):
        Path(root, name).mkdir(exist_ok=True)
    kernel.mount("tmpfs", f"{root}/tmp", "tmpfs", quiet, f"size={disk},mode=1777,nr_inodes=10000")
    Path(root, "tmp/.shm").mkdir()
    Path(root, "dev/shm").mkdir()
    kernel.mount(f"{root}/tmp/.shm", f"{root}/dev/shm", None, kernel.MS_BIND)
    with contextlib.suppress(OSError):
        kernel.mount("proc", f"{root}/proc", "proc", quiet | kernel.MS_NOEXEC)
        Path(root, "proc/sys/user/max_user_namespaces").write_text("0")
    kernel.mount("none", root, None, kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | quiet)
    kernel.pivot(root)
    os.chdir("/tmp")


def _apart(paths: list[str]) -> list[str]:
    """The paths without those that lie in another of them: it brings them along."""
    found: list[str] = []
    for path in sorted({os.path.normpath(each) for each in paths}, key=len):
        if not any(path.startswith(f"{above}/") and not Path(above).is_symlink() for above in found):
            found.append(path)
    return found


def _opened(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)


def _there(path: str) -> bool:
    return os.path.lexists(path) and path != "/"


def _put(root: str, path: str, place: int) -> None:
    """What is open at `place`, at `path` below the new root."""
    target = Path(root + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    source = f"/proc/self/fd/{place}"
    mode = os.stat(place).st_mode
    if stat.S_ISLNK(mode):
        target.symlink_to(os.readlink("", dir_fd=place))
        return
    if stat.S_ISDIR(mode):
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    kernel.mount(source, str(target), None, kernel.MS_BIND | kernel.MS_REC)


def _put_of_now(root: str, path: str, place: int) -> None:
    """The same, and closes it. Where another has taken its place, as when somebody adds a user, that one."""
    for _ in range(TRIES):
        try:
            _put(root, path, place)
            break
        except FileNotFoundError:
            os.close(place)
            place = _opened(path)
    else:
        _put(root, path, place)
    os.close(place)
