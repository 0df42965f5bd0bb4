"""Prove an image: that it is for its platform, complete, as locked, and holds code for its GPU.

Static: no GPU is needed and nothing of the image runs. Exit code 42 where something is wrong. What is let
pass (definitions/exceptions.toml) is told with its reason.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.findings import Finding, Report
    from kit.nouns import Image

HELP = "prove an image: platform, libraries, packages, GPU code"
MOST = 12  # findings of one check in the table; --json has them all


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="its name, key or digest, or the beginning of one; or a SIF file")
    parser.add_argument("--format", choices=("oci", "sif"), help="which, where there are both of one name")
    parser.add_argument("--json", action="store_true", help="all findings as JSON")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import images, known, proof, record

    store = images.store()
    image, kept = _asked(args)
    with say.step(f"proving {image.name}") as update:
        report = proof.prove(store, image, update).report
    if kept:
        known.add_proof(store, image, record.proof_of(report, record.now()))
    if args.json:
        say.answer(json.format(json.encode(report)).decode())
    else:
        for line in table(report):
            say.answer(line)
    format = ("--format", args.format) if args.format else ()
    proof.demand(report, image.name, (args.image, *format))
    return 0


def _asked(args: argparse.Namespace) -> tuple[Image, bool]:
    """The image, and whether it is one of the store; else it is a file."""
    from pathlib import Path

    from kit.errors import NotFoundError
    from runner import images, proof

    path = Path(args.image)
    if all(each.name != args.image for each in images.store().list()):
        if path.is_file() and ("/" in args.image or path.suffix == ".sif"):
            return proof.file_image(path), False
        if "/" in args.image or path.suffix == ".sif":
            raise NotFoundError(f"{args.image!r} is not a file", "runner image list")
    return images.named(args.image, args.format), True


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
