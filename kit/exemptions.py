"""What a proof lets pass, by name and with a reason."""

from __future__ import annotations

from fnmatch import fnmatchcase

from msgspec import Struct


class Exemption(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Data: one thing that a check would fail for, and why it may.

    check    the check's name
    paths    patterns (* and ?) of paths in the image; * crosses folders
    names    patterns of what is lacking there, where the check tells such (libraries); none: whatever it is
    reason   one line; it is told in every report that used it
    """

    check: str
    paths: tuple[str, ...]
    names: tuple[str, ...] = ("*",)
    reason: str

    def covers(self, check: str, path: str, name: str = "") -> bool:
        """Whether this is about that check, that path, and what is lacking there."""
        return (
            check == self.check
            and any(fnmatchcase(path, pattern) for pattern in self.paths)
            and any(fnmatchcase(name, pattern) for pattern in self.names)
        )


class CodeRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Data: which libraries of a package must hold code for the GPU that an image is for.

    package  the distribution's name in the lock
    every    patterns of paths below site-packages: each library that matches must
    any      patterns: at least one of all that match must
    """

    package: str
    every: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
