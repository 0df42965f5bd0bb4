"""What was staged for a run, as its plan and the nodes know it; cheap, since every node imports it.

Each staging leaves a record, by which it is known later, without the hub, whether all of it is still there:
sites remove old files from scratch folders one by one.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, json

from kit import files


class Staged(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of /slipworks-run/staged.

    told    in words.
    home    HF_HOME inside; folder and record lie below it, relative to it.
    folder  what the entry leads to.
    ref     the file that tells which commit its revision is; None: the revision is a commit.
    """

    name: str
    told: str
    id: str
    commit: str
    home: str
    folder: str
    record: str
    ref: str | None = None


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies in a cache since a staging.

    snapshot  its folder, and files: name in it -> bytes.
    tasks     the folder of its tasks, and the folders in it; None: none were asked for.
    All folders are relative to HF_HOME.
    """

    commit: str
    snapshot: str
    files: dict[str, int]
    tasks: str | None = None
    folders: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(self.files.values())


def write(path: Path, record: Record) -> None:
    files.write(path, json.encode(record))


def read(path: Path) -> Record | None:
    """None where there is none, or one of another form."""
    try:
        return json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except ValueError:  # a later kit's: all is looked at anew
        return None


def lacking(record: Record, home: Path, snapshot: str | None = None) -> str | None:
    """The first file, or folder of tasks, that is not there as it was staged; None: all are."""
    folder = home / (snapshot or record.snapshot)
    for name, size in record.files.items():
        try:
            if (folder / name).stat().st_size != size:
                return str(folder / name)
        except OSError:
            return str(folder / name)
    if record.tasks:
        for name in record.folders:
            if not (home / record.tasks / name).is_dir():
                return str(home / record.tasks / name)
    return None


def missing(each: Staged) -> str | None:
    """What a node does not find of an entry; None: all is there. By the revision's name the same is found:
    where another run has staged a newer commit since, that one has to be whole, too."""
    home = Path(each.home)
    record = read(home / each.record)
    if record is None:
        return f"{home / each.record}"
    if lack := lacking(record, home):
        return lack
    if not (home / each.folder).is_dir():
        return str(home / each.folder)
    if each.ref is None:
        return None
    try:
        commit = (home / each.ref).read_text().strip()
    except OSError:
        return str(home / each.ref)
    if commit == record.commit:
        return None
    newer = str(Path(record.snapshot).with_name(commit))
    return next(
        (str(home / newer / name) for name in record.files if not (home / newer / name).exists()), None
    )


def link(entries: tuple[Staged, ...], folder: Path) -> None:
    """Makes the entries: links that lead somewhere inside only."""
    if entries:
        folder.mkdir(exist_ok=True)
    for each in entries:
        place = folder / each.name
        place.unlink(missing_ok=True)
        place.symlink_to(f"{each.home}/{each.folder}")
