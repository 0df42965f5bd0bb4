"""Start baked images, and drive the agent-server of each: that it is alive, runs a command in the base's own
environment, takes a file and gives it back, and ends when it is told to.

A sample of a prebuild's images, or all, or those that are named. Each is started as its clients do it, with
the entrypoint kept and with it cleared; what was pulled for it is removed again. Bases are looked into as
well, but for --all: that asks their registry for a manifest each, which it may count. Exit code 42 where an
image does not work.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runner.commands import _numbers
from runner.commands.prebuild import _which

if TYPE_CHECKING:
    from pathlib import Path

    from containers.engine import Engine
    from kit.nouns import Platform
    from runner.sandbox_proof import Proof

HELP = "start baked images and drive their agent-server"
SAMPLE = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="*", help="references of baked images (default: of the prebuild)")
    _which.which(parser)
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        "--sample", type=_numbers.count, default=SAMPLE, metavar="N", help="so many, by chance (default: 5)"
    )
    several.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--engine", choices=("podman", "docker"), help="default: the first that works here")
    parser.add_argument(
        "--jobs", type=_numbers.count, default=2, metavar="N", help="so many at once (default: 2)"
    )
    parser.add_argument(
        "--network", choices=("own", "host"), default="own",
        help="of the containers: own (default), or the host's where an engine has no other",
    )  # fmt: skip
    parser.add_argument(
        "--deadline", type=float, default=120.0, metavar="SECONDS",
        help="in which a server must be alive (default: 120)",
    )  # fmt: skip
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="whether to look into the bases: what became of /usr/local/bin",
    )
    parser.add_argument("--dry-run", action="store_true", help="name the images, and start none")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import progress, say
    from kit.errors import VerifyError
    from runner import sandbox_proof

    platform, references = _asked(args)
    if args.dry_run:
        for each in references:
            say.answer(each)
        return 0
    asked = sandbox_proof.Asked(
        engine=_engine(args.engine), platform=platform, jobs=args.jobs, network=args.network,
        deadline=args.deadline,
        layer=_layer(platform) if args.compare or (args.compare is None and not args.all) else None,
    )  # fmt: skip
    with progress.bar("proving", len(references)) as told:
        done: list[Proof] = []

        def tell(proof: Proof) -> None:
            done.append(proof)
            told(len(done), f"{sum(not each.good for each in done)} do not work")

        proofs = sandbox_proof.prove(references, asked, tell)
    if args.json:
        say.answer(json.format(json.encode(proofs)).decode())
    else:
        _show(proofs)
    if bad := [each for each in proofs if not each.good]:
        raise VerifyError(
            f"{len(bad)} of {len(proofs)} images do not work: {bad[0].image}: {bad[0].error}",
            f"runner prebuild verify {bad[0].image} --json",
        )
    return 0


def _asked(args: argparse.Namespace) -> tuple[Platform, list[str]]:
    """The platform and the references, which are those of the prebuild where none are given."""
    import random

    from image_cache.places import Origin
    from kit.errors import NotFoundError
    from kit.nouns import Platform
    from runner import prebuilds

    if args.image:
        platform = Platform.parse(args.platform) if args.platform else Platform.host()
        return platform, list(dict.fromkeys(str(Origin.parse(each)) for each in args.image))
    with prebuilds.opened(prebuilds.the_one(args.to, args.platform, args.journal)) as journal:
        platform, found = journal.header.platform, [reference for _, reference in journal.ready()]
    if not found:
        raise NotFoundError("no image of the prebuild is there yet", "runner prebuild run")
    found = list(dict.fromkeys(found))
    return platform, found if args.all else random.sample(found, min(args.sample, len(found)))


def _layer(platform: Platform) -> Path | None:
    """The layer's folder, by which bases are looked into; it is not built for that."""
    from kit import say
    from runner import agent_layer, images

    if agent_layer.find(platform, images.store()) is None:
        say.say("note: bases are not looked into: the layer is not made here (runner prebuild layer)")
        return None
    return agent_layer.unpacked(platform, images.store())


def _engine(name: str | None) -> Engine:
    from containers import engine
    from kit.errors import MissingToolError, SlipworksError

    failures = []
    for each in (name,) if name else ("podman", "docker"):
        made = engine.get(each)
        try:
            made.check()
            return made
        except SlipworksError as reason:
            if name:
                raise
            failures.append(reason)
    told = "; ".join(each.message for each in failures)
    raise MissingToolError(f"neither podman nor docker works here: {told}", failures[0].hint)


def _show(proofs: list[Proof]) -> None:
    from runner import tables

    rows = []
    for each in proofs:
        ready = "" if each.ready is None else f"{each.ready:.1f}"
        first = (each.error or "; ".join(each.notes)).splitlines()
        rows.append((each.image, "works" if each.good else each.error_class or "", ready, *first[:1]))
    rows = [(*row, *[""] * (4 - len(row))) for row in rows]
    tables.show(("IMAGE", "", "READY", ""), rows, ("READY",))
