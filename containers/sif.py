"""Making a SIF with `apptainer build`: on a disk with room, with this process's share of the machine, and the
same bytes each time.

Two SIFs of one image are equal byte by byte where they are made by the same versions of apptainer, mksquashfs
and its zstd, by whatever user, at whatever time, in whatever folder. What would differ, and why it does not:

    SIF header: id, times               set afterwards (sif_header.py)
    label org.label-schema.build-date   overwritten by a label of ours (--force lets it win)
    squashfs: time of its making, and of the files that apptainer adds    SOURCE_DATE_EPOCH, which mksquashfs
                                        heeds from 4.4 on: files newer than that are set to it
    squashfs: owners                    -all-root: apptainer gives them up itself for all users but root
    definition: names of our folders    the same relative names each time

What still differs: apptainer's own version in a label, and what other versions of the three make of the rest.
A SIF built from a definition runs commands in it, so it is the same only if what they make is the same: our
install.sh sees to that for /opt/stack, and a distribution's packages may have moved on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from containers import complaints, sif_header
from containers.engine import Update
from kit import files, process, share
from kit.errors import NoSpaceError

EARLIEST = 315532800  # 1980-01-01: zip files, which some tools make of installed ones, know no earlier time
MEMORY = (256 << 20, 8 << 30)  # for mksquashfs, which takes a quarter of the machine if nobody asks
UNPACKED = 2  # times its packed layers is the least that an image's files take
PUNCTUATION = frozenset(",:'\"$`;()&|<>\\\n")
"""What apptainer 1.4 reads in a folder's name: as part of a list, or of a line of sh, by which it looks at
what it put together; it fails then, or finds less than there is."""
LABEL = "org.label-schema.build-date 1980-01-01T00:00:00Z"
"""A line of %labels. The value is the same in every SIF: the image's own labels say what it was made of."""


class Making(Struct, frozen=True, kw_only=True):
    """One `apptainer build`, started in `cwd`.

    what    completes "could not …" and base is named, as in complaints.stream; context likewise
    source  a definition or an image; flags go before it
    epoch   no file of the image is newer
    packed  bytes of the image's layers, for what must be free; 0: not known
    at_once how many are made at the same time here: each gets its part of the machine
    """

    what: str
    source: str
    cwd: Path
    epoch: int
    flags: Sequence[str] = ()
    base: str | None = None
    packed: int = 0
    at_once: int = 1
    context: Mapping[str, str] = {}


def make(making: Making, out: Path, update: Update) -> None:
    """Makes the SIF at `out`, atomically; on failure there is no such file.

    Temporary files, several times its size, lie in APPTAINER_TMPDIR where that is set, else beside `out`;
    in the machine's folder for them where the name of that one holds PUNCTUATION.
    """
    epoch, out = max(making.epoch, EARLIEST), out.absolute()
    with files.beside(out) as made, _room(making, out) as folder:
        argv = [
            "apptainer", "build", "--force", *making.flags,
            f"--mksquashfs-args={squash(making.at_once)}", str(made), making.source,
        ]  # fmt: skip
        env = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "APPTAINER_TMPDIR": str(folder)}
        try:
            complaints.stream(
                argv, what=making.what, base=making.base, update=update, cwd=making.cwd, env=env,
                context=making.context, alone=making.at_once == 1,
            )  # fmt: skip
        except NoSpaceError as full:
            raise NoSpaceError(full.message, _hint(folder.parent)) from full
        sif_header.steady(made, epoch)
        files.settle(made, out)


def squash(at_once: int = 1) -> str:
    """What mksquashfs gets of this machine, where so many run; and zstd where it has it: packed faster than
    gzip, and smaller."""
    memory = min(max(share.memory() // 4 // at_once, MEMORY[0]), MEMORY[1])
    words = f"-processors {max(1, share.cpus() // at_once)} -mem {memory >> 20}M -all-root"
    able = process.run(["mksquashfs", "-help"], what="ask mksquashfs", check=False)
    return words + (" -comp zstd -Xcompression-level 8" if "zstd" in able.out + able.err else "")


def temporary(out: Path) -> Path:
    """In which folder a SIF at `out` has its temporary files while it is made."""
    above = Path(os.environ.get("APPTAINER_TMPDIR") or out.parent).absolute()
    return Path(tempfile.gettempdir()) if set(str(above)) & PUNCTUATION else above


@contextlib.contextmanager
def _room(making: Making, out: Path) -> Iterator[Path]:
    """A folder of our own for temporary files. NoSpaceError, before anything is written, for a small disk."""
    above = temporary(out)
    with files.space_named(above):
        above.mkdir(parents=True, exist_ok=True)
        _check(making, above, (UNPACKED + 2) * making.packed)  # its files, a copy of its layers, the squashfs
        _check(making, out.parent, making.packed)
        # It changes modes where folders of the image would not let themselves be removed.
        folder = tempfile.TemporaryDirectory(prefix=".slipworks-sif-", suffix=".tmp", dir=above)
    with folder as name:
        yield Path(name)


def _check(making: Making, folder: Path, least: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < least:
        raise NoSpaceError(
            f"could not {making.what}: {folder} has {_size(free)} free, at least {_size(least)} needed",
            _hint(folder),
        )


def _hint(folder: Path) -> str:
    return f"export APPTAINER_TMPDIR=/a/larger/disk  # or free some space in {folder}: runner image gc"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
