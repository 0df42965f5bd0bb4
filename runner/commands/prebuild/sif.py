"""Make the SIFs of a list of images, bases or baked ones, in the store: for sites with Apptainer alone.

What is there is not made again, so the same command goes on after whatever ended it. Before it begins it says
what it will take of the disk, and refuses what cannot fit. Layers are pulled for as long as an image needs
them, and none stays; with --fetch they alone are pulled, and stay, for nodes without a way to the registry.

With --slurm N the work is spread over a job array of N tasks, each in the image of this kit for ARCH; behind
the list key=value is over their job's, as with `runner submit`: time=4:00:00 sbatch.cpus-per-task=16

The answer is the report's file, which names the SIF of each image; sifs.json beside it is the map from each
image, and each of its names, to its SIF. Every list, or dataset or target, has a folder of its own for both.
With --slurm the answer is the run folders.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands import _numbers
from runner.commands.prebuild import plan

if TYPE_CHECKING:
    from runner.prebuilding_sifs import Foreseen, Wanted

HELP = "make the SIFs of a list of images"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "list", nargs="*", metavar="LIST", help="files with references to registries, as of plan"
    )
    parser.add_argument("override", nargs="*", metavar="key=value", help="with --slurm: over its jobs'")
    for name, title in plan.DATASETS.items():
        parser.add_argument(f"--{name}", action="append", type=Path, default=[], metavar="FILE",
                            help=f"a file of the {title} dataset; may be given several times")  # fmt: skip
    parser.add_argument("--to", metavar="TARGET", help="what was baked into it, in place of a list")
    parser.add_argument("--platform", help="linux/amd64 or linux/arm64 (default: this machine's)")
    parser.add_argument(
        "--jobs", type=_numbers.count, metavar="N", help="at once (default: by CPUs and memory)"
    )
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS",
                        help="without a terminal, tell how far it is so often (0: never)")  # fmt: skip
    parser.add_argument("--fetch", action="store_true", help="pull the layers into the store alone")
    parser.add_argument("--refresh", action="store_true", help="ask anew what each tag stands for")
    parser.add_argument("--pin", action="store_true", help="keep the SIFs from `runner image gc`")
    parser.add_argument("--force", action="store_true", help="begin although the disk may be too small")
    parser.add_argument("--shard", type=_part, metavar="I/N", help="only the I-th of N parts of the list")
    parser.add_argument("--slurm", type=_numbers.count, metavar="N", help="submit a job array of N tasks")
    parser.add_argument("--most", type=_numbers.count, metavar="N", help="with --slurm: tasks at a time")
    parser.add_argument(
        "--arch", default="cpu", help="with --slurm: of the image of its tasks (default: cpu)"
    )
    parser.add_argument("--cluster", help="with --slurm: see runner clusters")
    parser.add_argument("--dry-run", action="store_true", help="tell what is to come, and make nothing")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")


def _part(text: str) -> tuple[int, int]:
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part, such as 2/4")
    return int(first), int(last)


def run(args: argparse.Namespace) -> int:
    from kit.errors import UsageError
    from kit.nouns import Platform
    from runner import prebuilding_sifs

    overrides = [each for each in (*args.list, *args.override) if "=" in each and not Path(each).exists()]
    lists = [(Path(each), "list") for each in (*args.list, *args.override) if each not in overrides]
    for name in plan.DATASETS:
        lists += [(path, name) for path in getattr(args, name.replace("-", "_"))]
    if not lists and not args.to:
        raise UsageError("there is no list of images", "runner prebuild sif LIST, --r2e FILE, or --to TARGET")
    if args.slurm and args.shard:
        raise UsageError("--slurm gives each task its --shard: found both")
    if overrides and not args.slurm:
        raise UsageError(f"{overrides[0]} is for the jobs of --slurm N, which is not given")
    wanted = prebuilding_sifs.Wanted(
        lists=tuple(lists), baked=_baked(args), part=args.shard, jobs=args.jobs, fetch=args.fetch,  # type: ignore[arg-type]
        platform=Platform.parse(args.platform) if args.platform else Platform.host(),
        refresh=args.refresh, pin=args.pin, force=args.force, every=args.every,
    )  # fmt: skip
    return _spread(args, wanted, overrides) if args.slurm else _here(args, wanted)


def _baked(args: argparse.Namespace) -> tuple[Path, ...]:
    if not args.to:
        return ()
    from runner import prebuilds

    return (prebuilds.the_one(args.to, args.platform, None),)


def _here(args: argparse.Namespace, wanted: Wanted) -> int:
    from kit import say, settings
    from runner import node_programs, prebuilding_sifs, sif_report

    settings.writable("cache")
    with node_programs.on_path():
        if args.dry_run:
            _tell(prebuilding_sifs.foreseen(wanted), args.json)
            return 0
        made = prebuilding_sifs.make(wanted)
    path = sif_report.write(made, wanted.folder)
    say.say(made.line)
    if made.mapped:
        say.say(f"the map from images to SIFs: {sif_report.map_of(path)}")
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


def _spread(args: argparse.Namespace, wanted: Wanted, overrides: list[str]) -> int:
    import msgspec

    from kit import say, settings
    from runner import prebuilding_array, prebuilding_sifs, site

    here = site.chosen({"cluster": args.cluster, "engine": "apptainer"}, lenient=args.dry_run)
    settings.writable("cache")
    if args.dry_run:
        wanted.entries()  # what is wrong with the list is told now too
    else:
        wanted = prebuilding_array.listed(wanted)
    jobs = prebuilding_array.tasks(wanted, args.slurm, here, args.arch, overrides)
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
