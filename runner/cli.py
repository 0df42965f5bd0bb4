"""The command line: finds the verbs by listing `runner/commands`, and turns every failure into two lines.

Imports stay few here: `runner --help` must answer within 100 ms.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from kit.errors import SlipworksError, UsageError


class Command(Protocol):
    """A module of `runner/commands`. Its top-level imports are light; heavy ones happen inside `run`."""

    HELP: str

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int:
        """Does it; returns the exit code, or raises a SlipworksError."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. A SlipworksError becomes `error:` and `hint:` on stderr and its own exit code."""
    signal.signal(signal.SIGPIPE, _hung_up)
    # TERM unwinds as Ctrl-C does, so that what was started is ended and temporary files go.
    signal.signal(signal.SIGTERM, _terminated)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names and values of any bytes leave as they came
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        args = parsed(sys.argv[1:] if argv is None else argv)
        command: Command = args.command
        code = _run(command, args)
        sys.stdout.flush()  # while a reader that is gone can still end us quietly
        return code
    except SlipworksError as failure:
        return tell(failure)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 128 + signal.SIGINT
    except OSError as failure:
        # What no part foresaw is still told in one line, with the place; the trace is for SLIPWORKS_TRACE.
        if os.environ.get("SLIPWORKS_TRACE"):
            raise
        place = f": {failure.filename}" if failure.filename else ""
        return tell(SlipworksError(f"{failure.strerror or failure}{place}", "SLIPWORKS_TRACE=1 shows where"))


def _hung_up(number: int, _: object) -> None:
    """A reader that closes our stdout early (`| head`) ends us quietly, as it does every Unix tool. A
    registry that hangs up while we send to it does not: that is told, or tried again."""
    ends = select.poll()
    for each in (1, 2):
        ends.register(each, 0)
    if any(event & select.POLLERR for _, event in ends.poll(0)):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _run(command: Command, args: argparse.Namespace) -> int:
    """Runs it with the settings of the cluster that this machine belongs to, asked for when one is read.

    A command that is BARE reads none, and starts the sooner.
    """
    _import_msgspec()
    if getattr(command, "BARE", False):
        return command.run(args)
    from kit import settings

    def of_this_cluster() -> Mapping[str, str]:
        from runner import site

        return site.values()

    settings.follow(of_this_cluster)
    try:
        return command.run(args)
    finally:
        settings.follow(None)


def _import_msgspec() -> None:
    """It takes from typing_extensions what typing has too, and does without: the import of that, with ast and
    inspect, would be a sixth of all that a node costs."""
    name = "typing_extensions"
    if name not in sys.modules:
        sys.modules[name] = None  # type: ignore[assignment]
        importlib.import_module("msgspec")
        del sys.modules[name]


def _terminated(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments. A command's `key=value` overrides may stand before, between and after its options.

    A command that takes another one's words (it has WORDS, of a family the names of such verbs) finds what
    stands behind `--` in `args.words`.
    """
    own, behind = _apart(argv)
    args, rest = parser(argv).parse_known_args(own)
    if behind is not None:
        args.words = behind
    overrides: list[str] | None = getattr(args, "override", None)
    for word in rest:
        if overrides is None or word.startswith("-"):
            # What stands behind = may be a secret.
            told = word.partition("=")[0] if word.startswith("-") else word
            raise UsageError(f"unrecognized argument: {told}", f"runner {argv[0]} --help")
        overrides.append(word)
    return args


def _apart(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str] | None]:
    """argparse cannot tell words for another command from its own once an option stands before them."""
    if "--" not in argv or argv[0] not in verbs():
        return argv, None
    taking = getattr(module(argv[0]), "WORDS", False)
    if not taking or (taking is not True and argv[1] not in taking):
        return argv, None
    at = list(argv).index("--")
    return argv[:at], argv[at + 1 :]


def tell(failure: SlipworksError) -> int:
    """Prints the failure on stderr and returns its exit code."""
    print(f"error: {failure.message}", file=sys.stderr)  # noqa: T201
    if failure.hint:
        print(f"hint: {failure.hint}", file=sys.stderr)  # noqa: T201
    return failure.code


def verbs() -> list[str]:
    """The names of the commands: the files of `runner/commands`, and its packages, whose verbs are files."""
    folder = Path(__file__).with_name("commands")
    found = [*folder.glob("*.py"), *(each.parent for each in folder.glob("*/__init__.py"))]
    return sorted(each.stem.replace("_", "-") for each in found if not each.stem.startswith("_"))


def module(verb: str) -> Any:
    """What carries out a command: a hyphen of its name is an underscore of its file's."""
    return importlib.import_module(f"runner.commands.{verb.replace('-', '_')}")


class _Parser(argparse.ArgumentParser):
    """argparse, with our error form and a did-you-mean."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(_worded(message), f"{self.prog} --help")


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The whole parser; where `argv` begins with a verb, only that verb's module is imported."""
    top = _Parser(
        prog="runner",
        description="Builds the exact training image for a GPU and runs reinforcement-learning jobs in it.",
    )
    top.add_argument("--version", action=_Version, help="print the version and end")
    sub = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    names = verbs()
    wanted = [argv[0]] if argv and argv[0] in names else names
    if argv and argv[0] not in names and not argv[0].startswith("-"):
        from kit.suggest import nearest

        meant = nearest(argv[0], names)
        raise UsageError(
            f"unknown command {argv[0]!r}: expected one of {', '.join(names)}",
            f"runner {meant} --help" if meant else "runner --help",
        )
    for name in wanted:
        found = module(name)
        entry = sub.add_parser(name, help=found.HELP, description=found.__doc__, allow_abbrev=False,
                               formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        found.arguments(entry)
        entry.set_defaults(command=entry.get_default("command") or found)
    return top


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"runner {version()}")  # noqa: T201
        parser.exit()


def version() -> str:
    """The kit's version, from its installed metadata; `unknown` in a tree that was never installed."""
    from importlib import metadata

    try:
        return metadata.version("slipworks")
    except metadata.PackageNotFoundError:
        return "unknown"


def _worded(message: str) -> str:
    """argparse's own complaint, with what was meant where a choice or an option is misspelt."""
    if "invalid choice: " in message and "(choose from " in message:
        from kit.suggest import nearest

        word = message.split("invalid choice: ")[1].split("'")[1]
        known = [each.strip(" ')") for each in message.split("(choose from ")[1].split(",")]
        meant = nearest(word, known)
        return message + (f"; did you mean {meant!r}?" if meant else "")
    return message
