"""The failure vocabulary: one class a kind, one exit code a class.

A message says what could not be done, what was found against what was expected, and where.
A hint is a command that the reader can type. Neither ever holds a secret.
Codes stay below 64 so that they never meet a shell's (126, 127, 128+n) or a child's own.
"""

from __future__ import annotations

from typing import ClassVar


class SlipworksError(Exception):
    """Something that the user can be told in one line; `code` becomes the process's exit code."""

    code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SlipworksError):
    """The command line itself is wrong."""

    code = 2


class UnknownNameError(SlipworksError):
    """An arch, line, base, engine, cluster or key that does not exist."""

    code = 10


class InvalidFileError(SlipworksError):
    """A file of ours or of the user's does not say what its format demands."""

    code = 11


class UnsupportedError(SlipworksError):
    """Each part is known, but not in this combination."""

    code = 12


class HashMismatchError(SlipworksError):
    """Bytes arrived whose hash is not the one that was promised; nothing was installed."""

    code = 13


class UnpinnedError(SlipworksError):
    """A digest or hash that must be known before this can go on is not recorded yet."""

    code = 14


class MissingToolError(SlipworksError):
    """A program or service is missing or too old; the hint names what installs it."""

    code = 20


class HostError(SlipworksError):
    """This machine cannot do it: no subordinate uids, a closed device, a missing capability."""

    code = 21


class NoSpaceError(SlipworksError):
    """A disk or a quota is full."""

    code = 22


class HeldError(SlipworksError):
    """Another process, maybe on another host, does this now; the message names it."""

    code = 23


class NetworkError(SlipworksError):
    """The other side could not be reached, or did not answer in time. Says nothing about existence."""

    code = 30


class AuthError(SlipworksError):
    """401 or 403: who we are is unknown or not allowed."""

    code = 31


class NotFoundError(SlipworksError):
    """The other side answered, and said that there is no such thing."""

    code = 32


class QuotaError(SlipworksError):
    """429: asked too often; the message says when to come back if the other side did.

    seconds: until then; None where it said nothing.
    """

    code = 33
    seconds: float | None = None


class BuildError(SlipworksError):
    """A build step failed; the last lines of its output are in the message."""

    code = 40


class DriftError(SlipworksError):
    """A committed, generated file is not what would be generated now."""

    code = 41


class VerifyError(SlipworksError):
    """An image is not what its record says, or cannot do what it is for."""

    code = 42


class BusyError(SlipworksError):
    """All slots of a sandbox server are taken. seconds: after which it is worth to ask again."""

    code = 44

    def __init__(self, message: str, seconds: float, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.seconds = seconds


class PrebuildError(SlipworksError):
    """A prebuild went to its end, but some of its images could not be made; all others are there."""

    code = 43


class LaunchError(SlipworksError):
    """A job could not be brought up: a node, Ray or a service did not become ready."""

    code = 50


EXIT_CODES: dict[str, int] = {
    kind.__name__: kind.code
    for kind in (
        UsageError, UnknownNameError, InvalidFileError, UnsupportedError, HashMismatchError, UnpinnedError,
        MissingToolError, HostError, NoSpaceError, HeldError, NetworkError, AuthError, NotFoundError,
        QuotaError, BuildError, DriftError, VerifyError, PrebuildError, BusyError,
        LaunchError,
    )
}  # fmt: skip
"""Class name to exit code, for the reference page and for the test that no two classes share one."""
