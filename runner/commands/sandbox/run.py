"""Start a sandbox of any base image: the agent layer is mounted where the image has no agent-server.

The answer is two lines, once its agent-server is alive: the URL, and the session key that clients send as
X-Session-API-Key. It goes on until `runner sandbox stop`. Words behind `--` are the server's own, or another
command that serves in its place. For many sandboxes, with slots and lifetimes: runner sandbox serve.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runner.commands import _numbers

if TYPE_CHECKING:
    from runner.sandboxes.by_hand import Asked
    from runner.sandboxes.nouns import Pull

HELP = "start a sandbox of any base image"
PULL: dict[str, Pull] = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(words=())
    parser.add_argument(
        "base", metavar="BASE", help="an image as its engine names it; for apptainer a SIF, too"
    )
    parser.add_argument("--name", help="by which other verbs know it (default: made of the image's)")
    parser.add_argument(
        "--engine", choices=("podman", "apptainer", "docker"), help="default: the first that works here"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]",
        help="a variable of the sandbox; a NAME alone has this shell's value, and stands in no command line",
    )  # fmt: skip
    parser.add_argument("--workdir", metavar="FOLDER", help="in the image (default: the image's own)")
    parser.add_argument(
        "--pull", choices=tuple(PULL), default="missing",
        help="whether its registry is asked (default: missing, where the image is not here)",
    )  # fmt: skip
    parser.add_argument("--memory", type=_numbers.count, default=8192, metavar="MB", help="default: 8192")
    parser.add_argument(
        "--network", choices=("own", "host"), default="own",
        help="own (default), or the host's where an engine has no other",
    )  # fmt: skip
    parser.add_argument(
        "--deadline", type=float, default=120.0, metavar="SECONDS",
        help="in which its server must be alive, once the image is here (default: 120)",
    )  # fmt: skip
    parser.add_argument(
        "--layer", metavar="PATH", help="the agent layer as the engine mounts it (default: made when needed)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="tell what would be started, and start nothing"
    )
    parser.add_argument("--json", action="store_true", help="the answer as JSON")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say, shell
    from runner.sandboxes import by_hand, here, places

    asked = _asked(args)
    if args.dry_run:
        plan = by_hand.plan(asked)
        if args.json:
            say.answer(json.format(json.encode(plan)).decode())
            return 0
        for name, value in plan.items():
            said = shell.line(value) if isinstance(value, list) else value
            say.answer(f"{name}: {said}".rstrip())
        return 0
    session = by_hand.started(asked)
    if args.json:
        seen = here.Seen(session=session, folder=places.by_hand(), state=session.phase)
        say.answer(json.format(json.encode(here.told(seen) | {"session_api_key": session.key})).decode())
        return 0
    say.say(f"{session.wish.session}: runner sandbox exec|logs|stop {session.wish.session}")
    say.answer(session.url)
    say.answer(session.key)
    return 0


def _asked(args: argparse.Namespace) -> Asked:
    from pathlib import Path

    from runner.sandboxes.by_hand import Asked
    from runner.sandboxes.nouns import Wish
    from runner.sandboxes.settings import Settings

    wish = Wish(session=args.name or "", image=_image(args.base), command=tuple(args.words),
                env=_environment(args.env), workdir=args.workdir, pull=PULL[args.pull])  # fmt: skip
    settings = Settings(
        engine=args.engine, memory=args.memory, network=args.network, start_within=args.deadline,
        layer=args.layer and str(Path(args.layer).absolute()),
    )  # fmt: skip
    return Asked(wish=wish, settings=settings)


def _image(base: str) -> str:
    """A SIF of this folder is one by its whole path; all else is a name."""
    from pathlib import Path

    path = Path(base)
    return str(path.absolute()) if path.suffix == ".sif" and path.is_file() else base


def _environment(given: list[str]) -> dict[str, str]:
    """None of it stands in a command line of ours."""
    import os

    from kit.errors import UsageError
    from runner.assignments import NAME

    found = {}
    for word in given:
        name, said, value = word.partition("=")
        if not NAME.fullmatch(name):
            raise UsageError("--env: found no name of a variable, expected NAME or NAME=VALUE")
        if not said and name not in os.environ:
            raise UsageError(f"--env {name}: this shell has no such variable", f"--env {name}=VALUE")
        found[name] = value if said else os.environ[name]
    return found
