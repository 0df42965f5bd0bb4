"""Where apt and dpkg-deb are run: on this machine, or, where it has none, in an unpacked root that has them.

Entering such a root needs a user namespace, and neither root nor subordinate ids: apt downloads and looks up,
and installs nothing there. The root must be one that may be written to, and that nobody uses otherwise.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from kit import process
from kit.errors import HostError

# apt's downloaders need /dev/null. The words that follow are handed on as they are.
_ENTER = 'mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


class Home(Struct, frozen=True):
    """root: an unpacked root for this machine's platform; None: this machine itself."""

    root: Path | None = None

    def argv(self, *words: str | Path) -> list[str | Path]:
        """The command that runs these words there. Paths among them are `known` ones."""
        if self.root is None:
            return list(words)
        return [
            "unshare",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            _ENTER,
            self.root,
            "/usr/bin/env",
            _PATH,
            *words,
        ]

    def known(self, path: Path) -> Path:
        """A path of this machine, as programs there know it. It lies below `root`, if there is one."""
        return path if self.root is None else Path("/", path.relative_to(self.root))

    def here(self, path: str) -> Path:
        """A path that programs there know, as a path of this machine."""
        return Path(path) if self.root is None else self.root / path.lstrip("/")

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A fresh folder that programs there can reach; gone at the end."""
        above = self.root / "tmp" if self.root else None
        with tempfile.TemporaryDirectory(prefix="slipworks-apt-", dir=above) as name:
            yield Path(name)

    def check(self) -> None:
        """Makes a root ready to be entered; HostError where it cannot be, or has no apt."""
        if self.root is None:
            return
        for name in ("dev", "tmp", "etc"):
            if (self.root / name).is_symlink():  # what it names would be a folder of this machine
                raise HostError(
                    f"this machine has no apt, and that of the base cannot be run: its /{name} is a link",
                    "a Debian or Ubuntu machine, or another base",
                )
            (self.root / name).mkdir(exist_ok=True)
        for name in ("resolv.conf", "hosts"):  # mirrors are found as this machine finds them
            there = self.root / "etc" / name
            there.unlink(missing_ok=True)
            if Path("/etc", name).is_file():
                shutil.copyfile(Path("/etc", name), there)
        told = process.run(self.argv("apt-get", "--version"), what="run the base's apt", check=False)
        if told.code:
            raise HostError(
                f"this machine has no apt, and that of the base cannot be run: {told.err.strip()}",
                "sysctl user.max_user_namespaces, or a Debian or Ubuntu machine",
            )


_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
