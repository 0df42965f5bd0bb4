"""Why a run failed: known failures that show in its logs, each with its cause, what to do, and where that is
known from.

Looked through are the logs of the latest attempt, of all its nodes, services and Ray daemons, and what Slurm
says of its job. A failure that is not known is not found: then the end of the log is the place to look.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.run_states import Now
    from runner.tables import Section
    from runner.why.searching import Found

HELP = "known failures in a run's logs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="see runner status")
    parser.add_argument("--attempt", type=int, help="which start of the job (default: the latest)")
    parser.add_argument("--json", action="store_true", help="as JSON: the state, and each failure")


def run(args: argparse.Namespace) -> int:
    from kit import exact, say
    from runner import following, run_names, tables, watching
    from runner.why import searching

    folder = run_names.find(args.run, run_names.folder_of_runs())
    (now,) = watching.Watch().states([folder])
    if args.attempt is not None:
        following.demand_attempt(now.files, args.attempt)
    asked = args.attempt is not None or now.state != "completed"  # of a good run only an attempt that was not
    found, logs = searching.search(now, args.attempt) if asked else ([], 0)
    if args.json:
        say.answer(exact.encode(_whole(now, found)).decode())
        return 0
    tables.show_sections([(folder.root.name, [("state", _state(now))]), *map(_section, found)])
    if asked and not found:
        say.say(f"nothing that is known shows in {logs} log(s): runner logs {folder.run_id}")
    return 0


def _state(now: Now) -> str:
    code = f" ({now.code})" if now.code is not None and now.state == "failed" else ""
    return f"{now.state}{code}" + (f": {now.why}" if now.why else "")


def _section(found: Found) -> Section:
    failure = found.failure
    where = "Slurm" if found.log is None else str(found.log)
    where += f":{found.line}" if found.line is not None and found.log else ""
    times = f" (in {found.times} lines)" if found.times > 1 else ""
    return failure.name, [
        ("seen", found.text),
        ("in", f"{where}{times}"),
        ("cause", failure.cause),
        ("do", failure.fix),
        ("source", failure.source),
    ]


def _whole(now: Now, found: list[Found]) -> dict[str, object]:
    return {
        "run": now.files.folder.root.name,
        "state": now.state,
        "why": now.why,
        "code": now.code,
        "failures": [
            {
                "name": each.failure.name, "cause": each.failure.cause, "fix": each.failure.fix,
                "source": each.failure.source, "text": each.text, "times": each.times,
                "log": str(each.log) if each.log else None, "line": each.line,
            }
            for each in found
        ],
    }  # fmt: skip
