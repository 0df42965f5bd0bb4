"""The pages of docs/reference, made from the code that they describe: `make reference` writes them.

Written from argparse's actions, not from its help texts, whose form changes from one Python to the next.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path

from kit import errors, files, settings
from runner import cli, reference_job

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
HEAD = "<!-- Written by `make reference`. -->\n"


def pages() -> dict[str, str]:
    """File name -> text. Pure: the same on every machine and Python."""
    return {
        "commands.md": f"{HEAD}# Commands\n\n{_commands()}",
        "job.md": f"{HEAD}# Keys of a job\n\n{reference_job.page()}",
        "exit-codes.md": f"{HEAD}# Exit codes\n\n{_exit_codes()}",
        "settings.md": f"{HEAD}# Settings\n\n{_settings()}",
    }


def write() -> None:
    """Writes every page; other files in the folder are left alone."""
    for name, text in pages().items():
        files.write(FOLDER / name, text)


def _exit_codes() -> str:
    kinds = [each for each in vars(errors).values()
             if isinstance(each, type) and issubclass(each, errors.SlipworksError)]  # fmt: skip
    rows = [f"| {kind.code} | {kind.__name__} | {_paragraph(kind)} |"
            for kind in sorted(kinds, key=lambda kind: kind.code)]  # fmt: skip
    return "\n".join([
        "A failure is told in one line (`error:`) and mostly a second (`hint:`, what to type) on stderr. "
        "A job's own exit code is passed through.\n",
        "| code | kind | when |", "|---|---|---|", *rows, "",
    ])  # fmt: skip


def _settings() -> str:
    """The docstring of Settings has one line a setting: its name, two spaces or more, its meaning."""
    text = inspect.getdoc(settings.Settings) or ""
    rows = [line.split(None, 1) for line in text.splitlines() if line.split(" ")[0] in settings.NAMES]
    table = [f"| `{name}` | `SLIPWORKS_{name.upper()}` | {meaning} |" for name, meaning in rows]
    return "\n".join([
        "A flag wins over the environment, that over the user's file, and that over the cluster's. "
        "`runner config` prints each value with its source, and where the user's file is.\n",
        "| setting | variable | meaning |", "|---|---|---|", *table, "",
    ])  # fmt: skip


def _commands() -> str:
    top = cli.parser()
    return "\n".join(line for name, each in _below(top) for line in _command(f"runner {name}", each, 2))


def _command(title: str, parser: argparse.ArgumentParser, depth: int) -> Iterator[str]:
    below = list(_below(parser))
    yield f"{'#' * depth} {title}\n"
    if parser.description:
        yield f"{parser.description.strip()}\n"
    yield from _options(parser)
    for name, each in below:
        yield from _command(f"{title} {name}", each, depth + 1)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = [action for action in parser._actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)]  # fmt: skip
    if rows:
        yield from ("| argument | meaning |", "|---|---|")
        for action in rows:
            yield f"| `{_written(action)}` | {(action.help or '').replace('|', '&#124;')} |"
        yield ""


def _written(action: argparse.Action) -> str:
    """As one types it: `--line LINE`, `ARCH`, `[ARCH …]`."""
    value = str(action.metavar or action.dest).upper()
    if not action.option_strings:
        return {"*": f"[{value} …]", "+": f"{value} …", "?": f"[{value}]", "...": f"{value} …"}.get(
            str(action.nargs), value)  # fmt: skip
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    choices = "|".join(map(str, action.choices)) if action.choices else value
    return f"{', '.join(action.option_strings)} {choices}".replace("|", "/")


def _below(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands or verbs below a parser, each with the one-line help that its list gives."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, each in action.choices.items():
                each.description = each.description or f"{told[name][:1].upper()}{told[name][1:]}."
                yield name, each


def _paragraph(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


if __name__ == "__main__":
    write()
