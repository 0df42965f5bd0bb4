"""What SIFs will take of the disk, told before any is made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from kit.errors import NoSpaceError
from runner import shown

SIF = 1.2
"""Bytes of a SIF for each of its packed layers, at the most that was seen (docs/measured.md): 1.15 for layers
that came in zstd, whose blocks are larger than a SIF's; 0.93 for gzip, which most are. Files that a later
layer replaces or removes are not in a SIF at all."""
TEMPORARY = 5
"""Bytes of apptainer's temporary files for each of an image's packed layers: its files, as a rule three times
as large, a copy of its layers, and the squashfs."""
BUDGET = 20 << 30  # bytes of layers that are kept for the next image; fewer where the disk is small


class Forecast(Struct, frozen=True, kw_only=True):
    """What is to come. Bytes.

    images     how many SIFs are to be made; counted: of how many the manifest says what they have; unknown:
               how many were asked for in vain.
    packed     their layers as they are packed; for those not counted, the mean of the others.
    largest    the largest image's layers.
    sifs       what the SIFs will take, by the factor SIF.
    work       layers on their way, on the store's disk; temporary: apptainer's own files, in `folder`.
    free       of the store's disk; free_there: of the temporary folder's. shared: it is one disk.
    """

    images: int
    counted: int
    packed: int
    largest: int
    sifs: int
    work: int
    temporary: int
    folder: str
    free: int
    free_there: int
    shared: bool
    unknown: int = 0

    @property
    def needed(self) -> int:
        """Of the store's disk."""
        return self.sifs + self.work + (self.temporary if self.shared else 0)

    @property
    def budget(self) -> int:
        """Bytes of layers that may be kept for other images."""
        return max(0, min(BUDGET, (self.free - self.needed) // 4))

    def told(self) -> str:
        """In one line."""
        of = "" if self.counted == self.images else f" (by {self.counted} of them)"
        if self.unknown:
            of = f" (by {self.counted} of them, {self.unknown} are not known)"
        if self.images and not self.counted:
            return f"{self.images} images, and what they take is not known; {shown.size(self.free)} are free"
        more = "" if self.shared or not self.temporary else f"; {shown.size(self.temporary)} in {self.folder}"
        return (
            f"{self.images} images of {shown.size(self.packed)} of layers{of}: {shown.size(self.needed)} of "
            f"disk, {shown.size(self.sifs)} to stay; {shown.size(self.free)} are free{more}"
        )


def forecast(
    sizes: Sequence[int],
    images: int,
    jobs: int,
    root: Path,
    temporary: Path,
    *,
    fetch: bool = False,
    elsewhere: bool = False,
    unknown: int = 0,
) -> Forecast:
    """sizes: packed bytes of those images that are known; root: of the store. Looks at the two disks alone.

    fetch: nothing is made, and the layers are what stays. elsewhere: it is made on other machines, of whose
    temporary folders nothing is known.
    """
    packed = round(sum(sizes) / len(sizes) * images) if sizes else 0
    largest, at_once = max(sizes, default=0), min(jobs, images)
    there, here = _there(temporary), _there(root)
    return Forecast(
        images=images, counted=len(sizes), unknown=unknown, packed=packed, largest=largest,
        sifs=packed if fetch else round(packed * SIF),
        work=0 if fetch else largest * at_once,
        temporary=0 if fetch or elsewhere else TEMPORARY * largest * at_once, folder=str(temporary),
        free=shutil.disk_usage(here).free, free_there=shutil.disk_usage(there).free,
        shared=not elsewhere and here.stat().st_dev == there.stat().st_dev,
    )  # fmt: skip


def demand(found: Forecast, root: Path) -> None:
    """NoSpaceError, before anything is made, where it cannot fit."""
    free = "runner image gc, a larger disk (runner config: cache), or --force: what fits is made"
    if found.needed > found.free:
        raise NoSpaceError(
            f"{found.images} images need {shown.size(found.needed)}, and {root} has "
            f"{shown.size(found.free)} free",
            free,
        )
    if not found.shared and found.temporary > found.free_there:
        raise NoSpaceError(
            f"apptainer needs {shown.size(found.temporary)} for temporary files, and {found.folder} has "
            f"{shown.size(found.free_there)} free",
            "export APPTAINER_TMPDIR=/a/larger/disk, fewer --jobs, or --force",
        )


def _there(folder: Path) -> Path:
    """The nearest folder that is there."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())
