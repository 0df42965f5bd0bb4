"""Which prebuild is meant: its folder, its journal opened."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from image_cache.prebuild import turn
from image_cache.prebuild.journal import Header, Journal
from kit import settings
from kit.errors import InvalidFileError, UsageError
from kit.nouns import MACHINES, Platform
from runner.bake_targets import target


def home() -> Path:
    return settings.load().settings.cache_folder / "prebuilds"


def folder(to: str, platform: Platform) -> Path:
    """The prebuild's own folder."""
    slug = re.sub(r"[^a-zA-Z0-9.]+", "-", to).strip("-")
    return home() / f"{slug[-150:]}-{platform.arch}"


def the_one(to: str | None, platform: str | None, given: Path | None) -> Path:
    """The folder of a prebuild that was planned: named, or the only one."""
    if given:
        return given
    arch = Platform.parse(platform).arch if platform else None
    if to:
        return _folder_for(target(to), arch)
    found = sorted(each.parent for each in home().glob("*/journal.sqlite"))
    found = [each for each in found if (arch is None or each.name.endswith(f"-{arch}")) and _planned(each)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError("there is no prebuild yet", "runner prebuild plan LIST --to REGISTRY/NAMESPACE")
    headers = [_header(each) for each in found]
    told = ", ".join(f"{each.target} for {each.platform}" for each in headers)
    raise UsageError(
        f"there are {len(found)} prebuilds: {told}",
        f"--to {headers[0].target} --platform {headers[0].platform}",
    )


def _folder_for(to: str, arch: str | None) -> Path:
    """Where the platform is not given: the only one that was planned for the target."""
    wanted = [folder(to, Platform(each)) for each in ([arch] if arch else MACHINES)]
    there = [each for each in wanted if (each / "journal.sqlite").exists()]
    if len(there) > 1:
        raise UsageError(
            f"there are prebuilds of {to} for several platforms", f"--platform linux/{min(MACHINES)}"
        )
    return (there or wanted)[0]


def _planned(folder: Path) -> bool:
    """A first plan whose list had a slip leaves a journal of nothing."""
    with contextlib.closing(Journal(folder)) as journal:
        return journal.total() > 0


def _header(folder: Path) -> Header:
    with contextlib.closing(Journal(folder)) as journal:
        return journal.header


@contextlib.contextmanager
def opened(folder: Path | None, header: Header | None = None, *, write: bool = False) -> Iterator[Journal]:
    """The journal; to write, with the right to do so."""
    if folder and header is None and not (folder / "journal.sqlite").exists():
        raise InvalidFileError(f"there is no prebuild in {folder}", "runner prebuild plan LIST --to …")
    with contextlib.ExitStack() as stack:
        if folder and write:
            settings.folder_of("journal", str(folder))
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(turn.held(folder))
        elif folder:
            turn.readable(folder)
        yield stack.enter_context(contextlib.closing(Journal(folder, header)))
