"""Store a secret. Its value is asked for without being shown, or read from stdin or from a file.

The line break behind a value of one line is no part of it; a value of several lines, as a private key, is
kept as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "store a secret, read from a prompt, stdin or a file"


def arguments(parser: argparse.ArgumentParser) -> None:
    # All words are taken, so that no complaint of ours quotes a value that was typed here.
    parser.add_argument("name", nargs="+", metavar="NAME", help="the variable that jobs know it by")
    parser.add_argument("--file", type=Path, help="a file that holds nothing but the value")


def run(args: argparse.Namespace) -> int:
    from kit import say
    from kit.errors import UsageError
    from runner import own_secrets
    from runner.assignments import NAME

    name = args.name[0].partition("=")[0]
    if not NAME.fullmatch(name):
        raise UsageError(
            "found no name of a variable, expected one as HF_TOKEN", "runner secrets set HF_TOKEN"
        )
    if len(args.name) > 1 or "=" in args.name[0]:
        raise UsageError(
            "a value on the command line can be read by everybody on this machine, and stays in the shell's "
            "history: nothing was stored",
            f"runner secrets set {name}  # which asks for it; and renew the value, if it is in use",
        )
    value = _value(name, args.file)
    if wrong := own_secrets.wrong(name, value):
        raise UsageError(wrong)
    with own_secrets.changing() as values:
        before = values.get(name)
        values[name] = value
    what = "stored" if before is None else "changed" if before != value else "stored as it was"
    say.say(f"{name}: {what}, in {own_secrets.file()}")
    return 0


def _value(name: str, file: Path | None) -> str:
    import getpass
    import os
    import sys

    from kit.errors import InvalidFileError, UsageError

    if file is None and sys.stdin.isatty():
        try:
            return getpass.getpass(f"{name}: ", stream=sys.stderr)
        except EOFError:  # Ctrl-D
            raise UsageError("no value was given, and nothing was stored") from None
    try:
        raw = file.read_bytes() if file else sys.stdin.buffer.read()
    except OSError as closed:
        raise InvalidFileError(f"cannot read {file}: {closed.strerror}") from None
    text = os.fsdecode(raw)
    line = text.removesuffix("\n").removesuffix("\r")
    return text if "\n" in line else line
