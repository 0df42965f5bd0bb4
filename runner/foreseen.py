"""Name and key of an image of ours, remembered: planning reads all of the kit, and a dry run has no time.

What was remembered counts only while nothing that planning reads has been touched: this kit's files, what the
store and the wheelhouse hold, the settings, this machine's distribution.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from kit import exact, files, settings
from kit.nouns import digest

KIT = Path(__file__).parents[1]
PARTS = ("kit", "definitions", "containers", "image_cache", "runner")


class Foreseen(Struct, frozen=True, kw_only=True):
    """What is known of an image before it is looked for. `state`: of all that this follows from."""

    state: str
    name: str
    key: str
    platform: str
    driver_floor: str | None = None


def image(arch: str, line: str | None, base: str | None, platform: str | None) -> Foreseen:
    """The image that `make image` would build for this; errors as of planning.plan."""
    asked = "\0".join(word or "" for word in (arch, line, base, platform))
    cache = settings.load().settings.cache_folder
    place = cache / "plans" / digest(asked.encode())[7:23]
    state = _state(cache)
    try:
        found = exact.decode(place.read_bytes(), Foreseen)
    except (OSError, ValueError):
        found = None
    if found and found.state == state:
        return found
    from runner import images
    from runner.planning import Wanted

    recipe = images.planned(Wanted(arch=arch, line=line, base=base, platform=platform))
    made = Foreseen(
        state=state, name=recipe.name, key=recipe.key, platform=str(recipe.platform),
        driver_floor=recipe.driver_floor,
    )  # fmt: skip
    if os.access(cache, os.W_OK):  # one that is only to be read, or not there, remembers nothing
        files.write(place, exact.encode(made))
    return made


def _state(cache: Path) -> str:
    own = settings.load().settings
    said = [sys.version, own.bases or "", str(own.torch_index is not None), os.environ.get("PATH", "")]
    return digest("\n".join([*said, *_touched(cache, own.bases)]).encode())


def _touched(cache: Path, bases: str | None) -> Iterator[str]:
    """When each file and folder that counts was last changed. A folder is when an entry comes or goes."""
    images = cache / "images"
    folders = [images / "refs", images / "artifacts", cache / "wheels", *_below(cache / "wheels")]
    single = [Path("/etc/os-release"), Path(os.__file__).parent, Path(str(msgspec.__file__)).parents[1]]
    for path in (*folders, *single, *([Path(bases).expanduser()] if bases else [])):
        yield _stamp(path)
    for part in PARTS:
        yield from _stamps(f"{KIT}/{part}")


def _stamps(folder: str) -> Iterator[str]:
    """Of every file below. Of texts, not paths: there are hundreds, and a dry run waits for them."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _stamps(entry.path)
            else:
                yield _stamp(entry.path)


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return []


def _stamp(path: Path | str) -> str:
    try:
        told = os.stat(path)  # noqa: PTH116
    except OSError:
        return f"{path} -"
    return f"{path} {told.st_mtime_ns} {told.st_size}"
