"""List what this machine has and lacks, each with what helps.

Exit code 0 if the local job (`make demo`) can run here, 20 if not.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.doctor import Finding

HELP = "list what this machine has and lacks"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON: name, ok, found, needed, hint of each")
    parser.add_argument("--network", action="store_true", help="also ask whether the package index answers")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from runner import doctor

    findings = doctor.examine(network=args.network)
    if args.json:
        say.answer(json.format(json.encode(findings)).decode())
    else:
        for line in _lines(findings):
            say.answer(line)
    doctor.verdict(findings)
    return 0


def _lines(findings: tuple[Finding, ...]) -> list[str]:
    """One line each: LACKING in capitals is what the local job needs."""
    width = max(len(each.name) for each in findings)
    lines = []
    for each in findings:
        state = "ok" if each.ok else "LACKING" if each.needed else "lacking"
        lines.append(f"{state:<7}  {each.name:<{width}}  {each.found}")
        if not each.ok and each.hint:
            lines.append(f"{'':<7}  {'':<{width}}  hint: {each.hint}")
    return lines
