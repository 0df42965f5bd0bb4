"""Tasks out of parquet files: one a row, as OpenThoughts publishes them.

`path` says where a task's folder goes, `task_binary` is a tar archive of what is in it, as a rule compressed
by gzip. Nothing of an archive lands outside of its folder: names, links and modes are those that tarfile's
`data` filter lets through.
"""

from __future__ import annotations

import io
import tarfile
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
    if not hasattr(tarfile, "data_filter"):  # before 3.11.4
        raise MissingToolError(
            "this Python unpacks no archives safely: found one older than 3.11.4", "./setup.sh kit"
        )
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
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError) as bad:
        raise InvalidFileError(f"{where}: its archive cannot be unpacked: {bad}") from bad
