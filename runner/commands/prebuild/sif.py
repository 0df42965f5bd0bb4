"""Make the SIFs of a list of images, bases or baked ones, in the store: for sites with Apptainer alone.

What is there is not made again, so the same command goes on after whatever ended it. Before it begins it says
what it will take of the disk, and refuses what cannot fit. Layers are pulled for as long as an image needs
them, and none stays; with --fetch they alone are pulled, and stay, for nodes without a way to the registry.

With --slurm N the work is spread over a job array of N tasks, each in the image of this kit for ARCH; behind
the list key=value is over their job's, as with `runner submit`: time=4:00:00 sbatch.cpus-per-task=16

The answer is the report, which names the SIF of each image; with --slurm the run folders.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from image_cache.prebuild.lists import Kind
    from runner.prebuilding_sifs import Foreseen, Wanted

HELP = "make the SIFs of a list of images"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "list", nargs="?", type=Path, metavar="LIST", help="a file with references, one a line"
    )
    parser.add_argument("override", nargs="*", metavar="key=value", help="with --slurm: over its jobs'")
    parser.add_argument("--r2e", type=Path, metavar="FILE", help="an R2E dataset in place of LIST")
    parser.add_argument("--swe-gym", type=Path, metavar="FILE", help="a SWE-Gym dataset")
    parser.add_argument("--swebench", type=Path, metavar="FILE", help="a SWE-bench dataset")
    parser.add_argument("--platform", help="linux/amd64 or linux/arm64 (default: this machine's)")
    parser.add_argument(
        "--jobs", type=_count, metavar="N", help="so many at once (default: by CPUs and memory)"
    )
    parser.add_argument(
        "--fetch", action="store_true", help="pull the layers into the store, and make nothing"
    )
    parser.add_argument("--fresh", action="store_true", help="ask anew what each tag stands for")
    parser.add_argument("--pin", action="store_true", help="keep the SIFs from `runner image gc`")
    parser.add_argument("--force", action="store_true", help="begin although the disk may be too small")
    parser.add_argument("--shard", type=_part, metavar="I/N", help="only the I-th of N parts of the list")
    parser.add_argument("--slurm", type=_count, metavar="N", help="submit a job array of N tasks that do it")
    parser.add_argument("--most", type=_count, metavar="N", help="with --slurm: so many tasks at a time")
    parser.add_argument(
        "--arch", default="cpu", help="with --slurm: whose image the tasks run in (default: cpu)"
    )
    parser.add_argument("--cluster", help="with --slurm: see runner clusters")
    parser.add_argument("--dry-run", action="store_true", help="tell what is to come, and make nothing")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _part(text: str) -> tuple[int, int]:
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part, such as 2/4")
    return int(first), int(last)


def run(args: argparse.Namespace) -> int:
    from kit.errors import UsageError
    from kit.nouns import Platform
    from runner import prebuilding_sifs

    file, kind = _asked(args)
    if args.slurm and args.shard:
        raise UsageError("--slurm gives each task its --shard: found both")
    if args.override and not args.slurm:
        raise UsageError(f"{args.override[0]} is for the jobs of --slurm N, which is not given")
    wanted = prebuilding_sifs.Wanted(
        file=file, kind=kind, platform=Platform.parse(args.platform) if args.platform else Platform.host(),
        part=args.shard, jobs=args.jobs, fetch=args.fetch, fresh=args.fresh, pin=args.pin, force=args.force,
    )  # fmt: skip
    if args.slurm:
        return _spread(args, wanted)
    return _here(args, wanted)


def _asked(args: argparse.Namespace) -> tuple[Path, Kind]:
    """The list, and what it is."""
    from kit.errors import UsageError

    kinds: dict[str, Kind] = {"r2e": "r2e", "swe_gym": "swe-gym", "swebench": "swebench"}
    given: list[tuple[Path, Kind]] = [
        (path, kind) for name, kind in kinds.items() if (path := getattr(args, name))
    ]
    if args.list and given and "=" in str(args.list):
        args.override.insert(0, str(args.list))
    elif args.list:
        given.append((args.list, "list"))
    if len(given) != 1:
        raise UsageError(
            f"found {len(given)} lists of images, expected one", "runner prebuild sif LIST, or --r2e FILE"
        )
    return given[0]


def _here(args: argparse.Namespace, wanted: Wanted) -> int:
    from kit import say, settings
    from runner import node_programs, prebuilding_sifs, sif_report

    settings.writable("cache")
    with node_programs.on_path():
        if args.dry_run:
            _tell(prebuilding_sifs.foreseen(wanted), args.json)
            return 0
        made = prebuilding_sifs.make(wanted)
    path = sif_report.write(made, prebuilding_sifs.folder(wanted.platform))
    say.say(made.line)
    say.answer(path.read_text().rstrip("\n") if args.json else str(path))
    sif_report.demand(made, path)
    return 0


def _tell(foreseen: Foreseen, as_json: bool) -> None:
    import msgspec

    from kit import say

    told = {"images": len(foreseen.entries), "there": foreseen.there, "forecast": foreseen.forecast}
    if as_json:
        say.answer(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    say.answer(f"{told['images']} images, of which {told['there']} are there")
    say.answer(foreseen.forecast.told())


def _spread(args: argparse.Namespace, wanted: Wanted) -> int:
    import msgspec

    from kit import say, settings
    from runner import prebuilding_array, prebuilding_sifs, site

    here = site.chosen({"cluster": args.cluster, "engine": "apptainer"}, lenient=args.dry_run)
    settings.writable("cache")
    wanted = wanted if args.dry_run else prebuilding_array.listed(wanted)
    jobs = prebuilding_array.tasks(wanted, args.slurm, here, args.arch, args.override)
    ready = prebuilding_array.prepared(jobs, here, dry=args.dry_run)
    if args.dry_run:
        say.answer(prebuilding_array.script(ready, args.most).rstrip("\n"))
        return 0
    settings.writable("runs")
    prebuilding_sifs.checked(wanted, args.slurm)
    done = prebuilding_array.submitted(ready, here, args.most)
    say.say(f"submitted to {here.name}: {len(done)} tasks of job {done[0][1].partition('_')[0]}")
    if args.json:
        say.answer(msgspec.json.encode([{"run": str(run), "job": job} for run, job in done]).decode())
    else:
        for run, _ in done:
            say.answer(str(run))
    return 0
