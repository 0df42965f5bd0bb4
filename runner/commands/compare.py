"""Submit jobs that differ in named settings only, to compare them: a folder's arms, all of them or none.

The folder has job.yaml, and arms.yaml:
  settings: [env.ROUTER]          keys of the job in which arms may differ
  arms:
    default: [env.ROUTER=default] over job.yaml, as `runner submit` takes them; or another job file's name
    tr: [env.ROUTER=tr]

Two arms that differ elsewhere are refused, naming the key. The answer on stdout: a line an arm, its name and
its run folder. Then `runner throughput RUN RUN` compares what they have logged.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.arms import Arm
    from runner.queued import Ready
    from runner.queueing import Prepared
    from runner.site import Site
    from runner.submitted import Record

HELP = "submit jobs that differ in named settings only"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="with job.yaml and arms.yaml, as examples/thunderagent")
    parser.add_argument(
        "override", nargs="*", metavar="key=value", help="over the job's, for all arms: sbatch.account=A1"
    )
    parser.add_argument("--arms", help="their names with commas between (default: all)")
    parser.add_argument("--cluster", help="see runner clusters (default: the setting, else the one here)")
    parser.add_argument("--engine", help="docker, podman or apptainer (default: the cluster's first)")
    parser.add_argument("--dry-run", action="store_true", help="print the batch scripts, and submit nothing")
    parser.add_argument(
        "--json", action="store_true", help="as JSON: each arm's run folder and job ids, or script"
    )


def run(args: argparse.Namespace) -> int:
    from kit import say
    from kit.errors import UnsupportedError
    from runner import arms, site

    plan = arms.read(args.folder)
    here = site.chosen({"cluster": args.cluster, "engine": args.engine}, lenient=args.dry_run)
    names = [each for each in (args.arms or "").split(",") if each]
    found = arms.loaded(plan, names, args.override, here.cluster)
    if here.cluster.scheduler != "slurm":
        raise UnsupportedError(
            f"{here.name} has no Slurm to submit arms to",
            f"runner submit {args.folder / arms.JOB} key=value, one arm after the other",
        )
    for line in arms.told(found):
        say.say(line)
    if not (here.cluster.exclusive or all(arm.job.sbatch.get("exclusive") for arm in found)):
        say.say("note: two arms may get one node, where each slows the other: sbatch.exclusive=true")
    if args.dry_run:
        return _dry(found, here, args.json)
    return _submit(found, here, args.json)


def _prepared(arms: Sequence[Arm], here: Site, dry: bool) -> list[Ready]:
    """All of them before any is submitted; UnsupportedError where a moving tag gave them different images."""
    from kit.errors import UnsupportedError
    from runner import queued, runs

    above = Path(here.settings.runs).expanduser().absolute()
    wanted = [(each.job, runs.named(above, each.job.name)) for each in arms]
    ready = queued.prepared(wanted, here, dry=dry)
    same = {(each.job.image, each.job.arch, each.job.line, each.job.base) for each in arms}
    digests = sorted({str(each.run.found.chosen.digest) for each in ready})
    if len(digests) > 1 and len(same) == 1:
        why = f"the tag moved: the arms got different images, {', '.join(digests)}"
        raise UnsupportedError(why, "image=NAME@sha256:…")
    return ready


def _dry(arms: Sequence[Arm], here: Site, as_json: bool) -> int:
    from msgspec import json

    from kit import say
    from slurm import script

    ready = _prepared(arms, here, dry=True)
    scripts = {
        arm.name: script.render(each.run.batch).rstrip("\n") for arm, each in zip(arms, ready, strict=True)
    }
    if as_json:
        told = {name: {"script": text} for name, text in scripts.items()}
        say.answer(json.encode({"arms": told}).decode())
        return 0
    for name, text in scripts.items():
        say.answer(f"# arm {name}\n{text}")
    return 0


def _submit(arms: Sequence[Arm], here: Site, as_json: bool) -> int:
    from kit import say
    from kit.errors import SlipworksError
    from runner import queued, queueing

    records: list[Record] = []

    def tell(run: Prepared, record: Record) -> None:
        say.say(f"{arms[len(records)].name}: submitted to {here.name}, job {record.ids[0]}")
        records.append(record)

    slurm = queueing.queue(here)
    ready = _prepared(arms, here, dry=False)
    try:
        queued.submit(ready, slurm, tell)
    except (SlipworksError, OSError):
        _tell_of_those_before(arms, records)
        raise
    finally:
        _answer(arms, ready, records, as_json)
    say.say(f"once a step was made: runner throughput {' '.join(each.run_id for each in records[:2])}")
    return 0


def _tell_of_those_before(arms: Sequence[Arm], records: Sequence[Record]) -> None:
    from kit import say

    names = [arm.name for arm in arms]
    done, left = names[: len(records)], names[len(records) :]
    if done and left:
        ids = " ".join(each.run_id for each in records)
        say.say(
            f"warning: {', '.join(left)} was not submitted, but {', '.join(done)} was: runner cancel {ids}"
        )


def _answer(arms: Sequence[Arm], ready: Sequence[Ready], records: Sequence[Record], as_json: bool) -> None:
    from msgspec import json

    from kit import say

    done = list(zip(arms, ready, records, strict=False))
    if as_json:
        told = {
            arm.name: {"run": str(each.run.at.run.root), "jobs": record.ids} for arm, each, record in done
        }
        say.answer(json.encode({"arms": told}).decode())
        return
    for arm, each, _ in done:
        say.answer(f"{arm.name}\t{each.run.at.run.root}")
