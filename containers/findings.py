"""What a proof is asked and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from kit.exemptions import CodeRule, Exemption
from kit.nouns import Platform

Status = Literal["ok", "failed", "excepted", "skipped", "unknown"]


class Expected(Struct, frozen=True, kw_only=True):
    """What an image must be.

    line          its stack's name; None: one of which less is known, as `unknown` says
    python        of the stack, as "3.13"; cuda: the version that its torch was built with, as "13.0"
    capabilities  compute capabilities of its arch's GPUs, as "9.0", by the definitions; label_capabilities:
                  what the image says of itself
    driver_floor  what the definitions say now; label_floor: what the image says of itself
    lock_digest   of the stack's lock, which lies in the image
    left_out      packages that the stack asks for, and that are in it only where somebody built them
    path          the folders where a process in the image looks for programs
    driver        libraries that the host's driver puts into a container
    code          which libraries must hold GPU code
    """

    platform: Platform
    line: str | None = None
    unknown: str = "the image has no label slipworks.line: not one of ours"
    python: str | None = None
    cuda: str | None = None
    capabilities: tuple[str, ...] = ()
    label_capabilities: tuple[str, ...] = ()
    driver_floor: str | None = None
    label_floor: str | None = None
    lock_digest: str | None = None
    left_out: tuple[str, ...] = ()
    path: tuple[str, ...] = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
    driver: tuple[str, ...] = ()
    code: tuple[CodeRule, ...] = ()
    exemptions: tuple[Exemption, ...] = ()


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer.

    ok        `found` says what was seen; of many files there is one finding
    failed    `found` is not what is `expected`
    excepted  the same, and let pass: `expected` is the exemption's reason
    skipped   there is nothing to ask: `found` says why
    unknown   what to expect is not known: `found` says why
    """

    check: str
    status: Status
    subject: str
    found: str
    expected: str = ""
    where: str = ""


class Report(Struct, frozen=True, kw_only=True):
    """All findings of one image, in the order of the checks."""

    platform: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.status == "failed")

    def counts(self) -> dict[str, int]:
        """Status -> how many findings have it."""
        found: dict[str, int] = {}
        for each in self.findings:
            found[each.status] = found.get(each.status, 0) + 1
        return found


class Check:
    """What a check of one name writes its findings with."""

    def __init__(self, name: str, expected: Expected) -> None:
        self.name = name
        self.expected = expected
        self.findings: list[Finding] = []

    def ok(self, subject: str, found: str, where: str = "") -> None:
        self._add("ok", subject, found, "", where)

    def skipped(self, subject: str, why: str) -> None:
        self._add("skipped", subject, why, "", "")

    def unknown(self, subject: str, why: str) -> None:
        self._add("unknown", subject, why, "", "")

    def cuda(self, subject: str) -> str | None:
        """The CUDA of the image's line; None, and it is told why, where there is nothing to check."""
        if self.expected.line is None:
            self.unknown(subject, self.expected.unknown)
            return None
        if self.expected.cuda is None:
            self.skipped(subject, "not needed: no CUDA")
        return self.expected.cuda

    def wrong(self, subject: str, found: str, expected: str, where: str = "", name: str = "") -> None:
        """Failed, unless an exemption covers the path (`where`) and what is lacking there (`name`)."""
        for exemption in self.expected.exemptions:
            if exemption.covers(self.name, where, name):
                self._add("excepted", subject, found, exemption.reason, where)
                return
        self._add("failed", subject, found, expected, where)

    def tally(self, subject: str, found: str, where: str = "") -> list[Finding]:
        """All findings; where nothing was wrong but for exemptions, after one that says so."""
        if not any(each.status == "failed" for each in self.findings):
            self.findings.insert(
                0, Finding(check=self.name, status="ok", subject=subject, found=found, where=where)
            )
        return self.findings

    def _add(self, status: Status, subject: str, found: str, expected: str, where: str) -> None:
        self.findings.append(
            Finding(
                check=self.name, status=status, subject=subject, found=found, expected=expected, where=where
            )
        )


def some(names: Iterable[str], most: int = 5) -> str:
    """Names for one line: the first few, and how many more."""
    all_of = sorted(names)
    more = f" and {len(all_of) - most} more" if len(all_of) > most else ""
    return ", ".join(all_of[:most]) + more
