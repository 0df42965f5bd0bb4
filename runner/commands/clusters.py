"""List the clusters that there is a file for, and those of your own; `*` marks the one here.

DOUBTS counts what no source says of a cluster: `runner doctor --cluster NAME` names it.
"""

from __future__ import annotations

import argparse
from typing import Any

HELP = "list the known clusters"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON: name, here, and what is shown of each")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say, settings
    from runner import site
    from slurm import clusters

    asked = settings.load(cluster={})
    found = site.detected(asked)
    own, file = asked.settings.clusters, str(settings.user_file())
    listed = [_row(name, clusters.load(name, own, file), found.name) for name in clusters.names(own)]
    if args.json:
        say.answer(json.format(json.encode(listed)).decode())
        return 0
    for line in _lines(listed):
        say.answer(line)
    say.say(f"here: {found.name or 'not known'}: {found.how}")
    return 0


def _row(name: str, cluster: Any, here: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "here": name == here,
        "scheduler": cluster.scheduler,
        "arch": cluster.arch,
        "gpus_per_node": cluster.gpus_per_node,
        "engines": cluster.engines,
        "internet": cluster.internet,
        "unverified": len(cluster.unverified),
        "summary": cluster.summary,
    }


def _lines(listed: list[dict[str, Any]]) -> list[str]:
    rows = [["", "NAME", "SCHEDULER", "ARCH", "GPUS", "ENGINES", "INTERNET", "DOUBTS", "SUMMARY"]]
    for each in listed:
        internet = {True: "yes", False: "no", None: "-"}[each["internet"]]
        gpus = "-" if each["gpus_per_node"] is None else str(each["gpus_per_node"])
        rows.append([
            "*" if each["here"] else "", each["name"], each["scheduler"], each["arch"] or "-", gpus,
            ",".join(each["engines"]), internet, str(each["unverified"]), each["summary"],
        ])  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = ([f"{word:<{width}}" for word, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in padded]
