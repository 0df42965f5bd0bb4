"""Print every setting, and every field of the cluster here, with its value and where it came from.

Over a cluster's file go the tables `[clusters.NAME]` of the user's own file.
"""

from __future__ import annotations

import argparse
from typing import Any

HELP = "print each setting with its source"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", help="show this cluster's (default: the one here)")
    parser.add_argument("--json", action="store_true", help="as JSON: name -> {value, source}")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say, settings
    from kit.errors import InvalidFileError
    from runner import site
    from slurm import clusters

    flags = {"cluster": args.cluster}
    asked = settings.load(flags, cluster={})
    found = site.detected(asked)
    loaded, rows = asked, {}
    if found.name:
        profile = clusters.accounted(clusters.profile(found.name, asked.settings.clusters))
        for name, source in profile.sources.items():
            rows[f"clusters.{profile.name}.{name}"] = (getattr(profile.cluster, name), source)
        try:
            loaded = site.chosen(flags).sourced
        except InvalidFileError as bad:  # a variable of its folders, which only login nodes may have
            say.say(f"note: {bad.message}")
    values = {name: (getattr(loaded.settings, name), loaded.sources[name]) for name in settings.NAMES}
    if args.json:
        table = {
            name: {"value": value, "source": source} for name, (value, source) in (values | rows).items()
        }
        say.answer(json.format(json.encode(table)).decode())
        return 0
    for part in (values, rows):
        width = max([12, *map(len, part)])
        for name, (value, source) in part.items():
            say.answer(f"{name:<{width}} {_shown(value)}  ({source})")
    say.say(f"user file: {settings.user_file()}")
    say.say(f"cluster: {found.name or 'not known'}: {found.how}")
    return 0


def _shown(value: object) -> str:
    from msgspec import json, to_builtins

    if value is None or isinstance(value, str):
        return "-" if value is None else value
    return json.encode(_said(to_builtins(value))).decode()


def _said(value: Any) -> Any:
    """Without what a table leaves open."""
    if isinstance(value, dict):
        return {key: _said(each) for key, each in value.items() if each is not None}
    return [_said(each) for each in value] if isinstance(value, list | tuple) else value
