"""List what this machine has and lacks, each with what helps.

Exit code 0 if the local job (`make demo`) can run here, 20 if not. On a cluster with Slurm, or with
--cluster, also what its profile and its image need, and what no source says of it: then 20 if no job can be
submitted from here.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.doctor import Finding
    from slurm.detect import Detected

HELP = "list what this machine has and lacks"
SUBMITTING = ("python", "room for cache", "room for runs")
"""Findings without which this machine submits no job."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", help="against this cluster's profile (default: the one here)")
    parser.add_argument("--json", action="store_true", help="as JSON: name, ok, found, needed, hint of each")
    parser.add_argument(
        "--egress",
        action="store_true",
        help="also open the cluster's way out of nodes without internet, and close it; exit code 30 if "
        "nothing gets through (by srun it is tried from a node)",
    )
    parser.add_argument("--network", action="store_true", help="also ask whether the package index answers")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say, settings
    from runner import doctor, site

    flags = {"cluster": args.cluster}
    found = site.detected(settings.load(flags, cluster={}))
    here = site.chosen(flags, lenient=True) if found.name else None
    findings = doctor.examine(network=args.network)
    named = None
    if here is None or here.cluster.scheduler == "none":
        findings = (*findings, *_where(found))
    else:
        from runner import doctor_cluster

        named = here.name
        findings = (*map(_unneeded, findings), *doctor_cluster.examine(here, findings))
    if args.egress:
        from runner.egress import examined

        findings = (*findings, *(out := tuple(examined.examine(site.chosen(flags)))))
    if args.json:
        say.answer(json.format(json.encode(findings)).decode())
    else:
        for line in _lines(findings):
            say.answer(line)
    if args.egress:
        examined.verdict(out)  # what was asked for; a node has not what a submission needs
        return 0
    doctor.verdict(findings, named)
    return 0


def _where(found: Detected) -> tuple[Finding, ...]:
    from runner.doctor import Finding

    if found.name:
        return (Finding("cluster", True, f"{found.name}: {found.how}"),)
    hint = "runner doctor --cluster NAME (runner clusters)"
    return (Finding("cluster", False, f"not known: {found.how}", hint=hint),)


def _unneeded(finding: Finding) -> Finding:
    """What the local job cannot do without, a job elsewhere can; but not what submits it."""
    from msgspec import structs

    return structs.replace(finding, needed=finding.needed and finding.name in SUBMITTING)


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
