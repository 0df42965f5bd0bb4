"""Store the assignments of an existing file: secret.env, api-keys.sh, a cluster's dotenv file.

The file is read, never run. What only a shell could tell (a $ outside of single quotes, a command, a
condition) is left out and named with its line; a name that is asked for and cannot be read is an error, and
then nothing is stored. The answer is the names that were stored.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.assignments import Text

HELP = "store the assignments of an env file, which is read and never run"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="lines such as export HF_TOKEN=…")
    parser.add_argument("name", nargs="*", metavar="NAME", help="only these (default: all that can be read)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be stored")


def run(args: argparse.Namespace) -> int:
    import os

    from kit import say
    from kit.errors import InvalidFileError
    from runner import assignments, own_secrets

    try:
        text = os.fsdecode(args.file.read_bytes())
        open_to_others = bool(args.file.stat().st_mode & 0o077)
    except OSError as closed:
        raise InvalidFileError(f"cannot read {args.file}: {closed.strerror}") from None
    found = assignments.read(text, str(args.file))
    values = _wanted(found, args)
    for name, value in values.items():
        if wrong := own_secrets.wrong(name, value):
            raise InvalidFileError(f"{args.file}: {wrong}")
    if not args.dry_run:
        with own_secrets.changing() as stored:
            stored.update(values)
    for name in values:
        say.answer(name)
    verb = "would be stored" if args.dry_run else "stored"
    say.say(f"{len(values)} {verb} in {own_secrets.file()}")
    if open_to_others:
        say.say(f"note: others may open {args.file}: chmod 600 {args.file}, or remove it")
    return 0


def _wanted(found: Text, args: argparse.Namespace) -> dict[str, str]:
    """What is to be stored. Says what was left out; InvalidFileError where that is all, or was asked for."""
    from kit import say
    from kit.errors import InvalidFileError

    values = {each.name: each.value for each in found.taken}  # the last of a name, as in a shell
    for left in found.left:
        if not args.name or left.name in args.name:
            say.say(f"{args.file}:{left.line}: left out{f' {left.name}' if left.name else ''}: {left.why}")
    if args.name:
        if missing := [name for name in args.name if name not in values]:
            raise InvalidFileError(
                f"{args.file} has no value of {', '.join(missing)} that can be read: nothing was stored",
                f"runner secrets set {missing[0]}",
            )
        return {name: values[name] for name in args.name}
    if not values:
        raise InvalidFileError(
            f"{args.file} has no assignment that can be read", "runner secrets set NAME --file …"
        )
    return values
