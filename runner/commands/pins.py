"""Ask the registries which digests the bases' tags have today, and write them into bases.toml.

The diff is yours to read and commit. Bases that are bootstrapped have no pin.
"""

from __future__ import annotations

import argparse

HELP = "write the digests of the bases, as their registries give them"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", nargs="*", help="bases (default: all that come from a registry)")
    parser.add_argument("--dry-run", action="store_true", help="print the digests, and write nothing")


def run(args: argparse.Namespace) -> int:
    import datetime

    from definitions import bases, pinning
    from image_cache import registry
    from kit import files, say
    from kit.errors import UnsupportedError

    chosen = args.base or [name for name in bases.names() if bases.load(name, "debian").kind == "registry"]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = bases.FILE.read_text()
    for name in chosen:
        base = bases.load(name, "debian")
        if base.kind != "registry":
            raise UnsupportedError(
                f"base {name} is bootstrapped, not pulled: it has no pin", "runner pins --help"
            )
        found = registry.resolve(base.reference)
        say.answer(f"{name} {base.reference} {found}")
        text = pinning.pinned(text, name, found, today, (f"the registry itself, asked on {today}",))
    if not args.dry_run:
        files.write(bases.FILE, text)
    return 0
