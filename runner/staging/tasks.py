"""Tasks out of parquet files: one a row, as OpenThoughts publishes them.

`path` says where a task's folder goes, `task_binary` is a tar archive of what is in it, as a rule compressed
by gzip. Nothing of an archive lands outside of its folder, by name or by link. (tarfile has filters for
that, but not in Debian's 3.11.)
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from kit import files
from kit.errors import InvalidFileError, MissingToolError

COLUMNS = ("path", "task_binary")
ROWS = 64  # at once in memory


def extract(
    sources: Sequence[Path], out: Path, told: Callable[[int], None] = lambda done: None
) -> tuple[str, ...]:
    """Makes the folder `out` with the tasks of all files, and returns their paths in it. Atomic: `out` is
    whole or not there. InvalidFileError for files of another form, and for two tasks of one path."""
    seen: dict[str, None] = {}
    with files.beside(out) as made, files.space_named(out):
        made.mkdir()
        for source in sources:
            for row, path, packed in _rows(source):
                where = f"{source.name}, row {row}"
                name = _checked(path, where)
                if name in seen:
                    raise InvalidFileError(f"{where}: there is a task {name} already")
                seen[name] = None
                _unpack(packed, made / name, where)
                told(len(seen))
        if not seen:
            raise InvalidFileError("there are no tasks in the parquet files")
        files.settle(made, out)
    return tuple(seen)


def mend(
    sources: Sequence[Path], out: Path, told: Callable[[int], None] = lambda done: None
) -> tuple[str, ...]:
    """As extract, where `out` may be there: it gets what it lacks, and what it has stays as it is, since a
    job may be reading it."""
    fresh = out.with_name(f"{out.name}.again")
    shutil.rmtree(fresh, ignore_errors=True)  # of one that was killed
    found = extract(sources, fresh, told)
    _put(fresh, out)
    shutil.rmtree(fresh, ignore_errors=True)
    return found


def _put(fresh: Path, there: Path) -> None:
    if not os.path.lexists(there):
        fresh.rename(there)
    elif there.is_dir() and fresh.is_dir() and not fresh.is_symlink():
        for each in list(fresh.iterdir()):
            _put(each, there / each.name)


def _rows(source: Path) -> Iterator[tuple[int, Any, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingToolError(
            f"cannot read {source.name}: Parquet needs pyarrow, which is not installed here",
            "runner stage JOB in the checkout, on a login node",
        ) from None
    try:
        with parquet.ParquetFile(source) as file:
            found = set(file.schema_arrow.names)
            if lacking := [name for name in COLUMNS if name not in found]:
                raise InvalidFileError(
                    f"{source.name} has no column {' and no column '.join(lacking)}: found "
                    f"{', '.join(sorted(found))}",
                    "leave out `tasks`",
                )
            row = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=list(COLUMNS)):
                for each in batch.to_pylist():
                    yield row, each["path"], each["task_binary"]
                    row += 1
    except (pyarrow.ArrowException, OSError) as bad:
        raise InvalidFileError(f"cannot read {source.name}: it is no whole Parquet file") from bad


def _checked(path: Any, where: str) -> str:
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
        raise InvalidFileError(f"{where}: found path {path!r}, expected a folder below the data set's own")
    return str(PurePosixPath(path))


def _unpack(packed: Any, folder: Path, where: str) -> None:
    if not isinstance(packed, bytes):
        raise InvalidFileError(f"{where}: task_binary holds no bytes")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive:
                _take(archive, member, folder, where)
    except (tarfile.TarError, EOFError, KeyError, zlib.error, lzma.LZMAError) as bad:
        raise InvalidFileError(f"{where}: its archive cannot be unpacked: {bad}") from bad
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as bad:
        raise InvalidFileError(f"{where}: its archive has a file and a folder of one name") from bad


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, where: str) -> None:
    """One entry. A hard link becomes a copy; owners and times are ours."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or _by_a_link(folder, name):
        raise InvalidFileError(f"{where}: {member.name!r} of its archive leads out of the task's folder")
    place = folder / name
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() or place.is_file():  # the last of a name counts
        place.unlink()
    if member.issym():
        _check_link(member, name, where)
        place.symlink_to(member.linkname)
    elif (content := archive.extractfile(member)) is not None:
        with content, place.open("wb") as file:
            shutil.copyfileobj(content, file)
        place.chmod(0o755 if member.mode & 0o100 else 0o644)
    else:
        raise InvalidFileError(f"{where}: {member.name!r} of its archive is neither file, folder nor link")


def _by_a_link(folder: Path, name: PurePosixPath) -> bool:
    return any((folder / above).is_symlink() for above in name.parents)


def _check_link(member: tarfile.TarInfo, name: PurePosixPath, where: str) -> None:
    """By its words alone: from where it lies it must stay below the task's folder."""
    parts = PurePosixPath(member.linkname).parts
    up = len([part for part in parts if part == ".."])
    # A .. behind a name could be one behind another link, whose words tell nothing of where it leads.
    if parts[:1] == ("/",) or up > len(name.parent.parts) or ".." in parts[up:]:
        raise InvalidFileError(
            f"{where}: the link {member.name!r} of its archive leads out of the task's folder"
        )
