"""Compile an extension for an arch, or take a published wheel of it, into the wheelhouse.

Extensions (flash-attn, causal-conv1d) exist only as sources with CUDA code. One is compiled inside the arch's
own image, on a machine of its platform, for the arch's GPUs alone. Images that are built after that hold it.
The answer on stdout is one line: where the wheel lies.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runner.commands import _numbers

if TYPE_CHECKING:
    from image_cache.wheelhouse import Kept
    from runner.planning import Wanted
    from runner.wheels import Order

HELP = "compile an extension such as flash-attn, or take a published wheel of it"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a table of definitions/extensions.toml, such as flash-attn")
    parser.add_argument("--arch", help="a file of definitions/archs, such as gh200")
    parser.add_argument("--line", help="the stack (default: the arch's)")
    parser.add_argument("--base", help="the base (default: the arch's)")
    parser.add_argument("--platform", help="linux/amd64 or linux/arm64, where the arch has both")
    parser.add_argument(
        "--jobs", type=_numbers.count, help="compile jobs (default: as CPUs and memory allow)"
    )
    parser.add_argument(
        "--engine", help="which runs the image: podman, docker, apptainer (default: the first)"
    )
    parser.add_argument(
        "--from", dest="source", metavar="URL|FILE", help="take this wheel and compile nothing"
    )
    parser.add_argument(
        "--sha256", metavar="HEX", help="what the wheel of --from hashes to; demanded with it"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and make nothing")
    parser.add_argument("--list", action="store_true", help="list the wheels that are there")
    parser.add_argument("--json", action="store_true", help="with --list: as JSON")


def run(args: argparse.Namespace) -> int:
    from kit import say, settings
    from runner import wheel_making, wheels
    from runner.planning import Wanted

    if args.list:
        return _list(args.json)
    _check(args)
    wanted = Wanted(arch=args.arch, line=args.line, base=args.base, platform=args.platform)
    order = wheels.ordered(args.name, wanted)
    if args.source:
        told = wheel_making.shown(args.source, args.sha256)
        if args.dry_run:
            say.answer(f"would take {told} as {_told(order)}")
            return 0
        settings.writable("cache")
        kept = wheel_making.take(order, args.source, args.sha256)
    else:
        wheel_making.refuse(order)
        count = wheel_making.jobs(order, args.jobs)
        if args.dry_run:
            return _dry(order, wanted, args.engine, count)
        settings.writable("cache")
        kept = _compiled(order, wanted, args.engine, count)
    say.say(f"{kept.wheel.file}: {kept.size / 2**20:.1f} MB, {' '.join(kept.codes)}; for {_told(order)}")
    say.answer(str(wheels.house().path(kept.wheel)))
    return 0


def _check(args: argparse.Namespace) -> None:
    from kit.errors import UsageError

    missing = [word for word, value in (("NAME", args.name), ("--arch", args.arch)) if not value]
    if missing:
        raise UsageError(f"{' and '.join(missing)} missing: which wheel?", "runner image wheel --help")
    if bool(args.source) != bool(args.sha256):
        raise UsageError(
            "--from and --sha256 go together: a wheel is taken only by its hash"
            if args.source
            else "--sha256 says what the wheel of --from hashes to, and there is no --from",
            "sha256sum FILE",
        )
    if args.json:
        raise UsageError("--json goes with --list", "runner image wheel --list --json")


def _told(order: Order) -> str:
    """What a wheel is for, in words."""
    return (
        f"{order.extension.name} {order.extension.version} for {order.arch.name} {order.line.name}"
        f" ({order.platform}, Python {order.base.python}, torch {order.purpose['torch']})"
    )


def _compiled(order: Order, wanted: Wanted, engine: str | None, count: int) -> Kept:
    from runner import images, wheel_making

    chosen = images.runs(engine)

    def image() -> str:
        return images.make(
            wanted.arch, line=wanted.line, base=wanted.base, platform=wanted.platform, engine=chosen.name,
            to_run=True,
        ).reference  # fmt: skip

    return wheel_making.compile(order, chosen, image, count)


def _dry(order: Order, wanted: Wanted, engine: str | None, count: int) -> int:
    """Prints the command that would compile. Folders that do not exist yet stand as PLACE and GIVEN."""
    from pathlib import Path

    from kit import say
    from kit.shell import line
    from runner import images, wheel_making

    chosen = images.runs(engine)
    reference = images.reference_of(images.planned(wanted), chosen)
    source = f"{order.extension.name.replace('-', '_')}-{order.extension.version}.tar.gz"
    run = wheel_making.container(order, reference, Path("/PLACE"), Path("/GIVEN"), source, count)
    say.say(f"would compile {_told(order)} with {count} jobs")
    say.answer(line(chosen.run_argv(run)))
    return 0


def _list(as_json: bool) -> int:
    from msgspec import json

    from kit import say
    from runner import wheels

    found = wheels.house().list()
    if as_json:
        say.answer(json.format(json.encode(found)).decode())
        return 0
    for each in found:
        for_what = [each.purpose[name] for name in ("platform", "python", "torch", "capabilities", "base")]
        say.answer("  ".join((each.wheel.file, *for_what, each.wheel.sha256)))
    return 0
