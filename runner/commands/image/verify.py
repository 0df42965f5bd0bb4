"""Prove an image: that it is for its platform, complete, as locked, and holds code for its GPU.

Static: no GPU is needed and nothing of the image runs. Exit code 42 where something is wrong. What is let
pass (definitions/exceptions.toml) is told with its reason.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.findings import Finding, Report

HELP = "prove an image: platform, libraries, packages, GPU code"
MOST = 12  # findings of one check in the table; --json has them all


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="its name, key or digest, or the beginning of one; or a SIF file")
    parser.add_argument("--format", choices=("oci", "sif"), help="which, where there are both of one name")
    parser.add_argument("--json", action="store_true", help="all findings as JSON")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from msgspec import json

    from kit import say
    from runner import images, proof

    path = Path(args.image)
    sif = args.image.endswith(".sif") and path.is_file()
    image = proof.file_image(path) if sif else images.named(args.image, args.format)
    with say.step(f"proving {image.name}") as update:
        report = proof.prove(images.store(), image, update)
    if args.json:
        say.answer(json.format(json.encode(report)).decode())
    else:
        for line in table(report):
            say.answer(line)
    check(report, image.name)
    return 0


def check(report: Report, name: str) -> None:
    """VerifyError where anything failed, with the first of it."""
    from kit.errors import VerifyError

    if report.failed:
        first = report.failed[0]
        where = f" ({first.where})" if first.where else ""
        raise VerifyError(
            f"{name} is not what it must be: {len(report.failed)} findings, the first of check {first.check}:"
            f" {first.subject} {first.found}, expected {first.expected}{where}",
            f"runner image verify {name} --json",
        )


def table(report: Report) -> list[str]:
    """A line a finding, at most MOST of one check and status; a line for all that one reason lets pass."""
    lines: list[str] = []
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for each in report.findings:
        reason = each.expected if each.status == "excepted" else ""
        groups.setdefault((each.check, each.status, reason), []).append(each)
    for (check, status, reason), found in groups.items():
        head = f"{check:<12} {status:<9} "
        if reason:
            lines.append(f"{head}{len(found)} × {reason}: {_told(found[0])}{' …' if found[1:] else ''}")
            continue
        lines += [head + _told(each) for each in found[:MOST]]
        if found[MOST:]:
            lines.append(f"{head}… and {len(found) - MOST} more: --json has them all")
    counted = ", ".join(f"{count} {status}" for status, count in report.counts().items())
    return [*lines, f"{report.platform}: {counted}"]


def _told(finding: Finding) -> str:
    told = f"{finding.subject}: {finding.found}"
    if finding.status == "failed":
        told += f", expected {finding.expected}"
    return f"{told}  {finding.where}" if finding.where else told
