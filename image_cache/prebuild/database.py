"""One SQLite file as the journal uses it: by many threads, killed at any moment, never half written.

Write-ahead logging: a commit is whole or not there after kill -9; after a power cut the last ones may be
missing, which the journal's reader can bear. One host at a time (write-ahead logging shares memory between
processes, which no network file system does): the journal's claim sees to that.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kit.errors import HostError, InvalidFileError, NoSpaceError, SlipworksError

BUSY = 60_000  # milliseconds to wait for another process of this host
APPLICATION = 0x534C4950  # "SLIP", in the file's head: `file` and we know whose it is

Row = tuple[Any, ...]


class Database:
    """schema: of `version`, made where the file is new. InvalidFileError where it is another's, or newer."""

    def __init__(self, path: Path | None, schema: str, version: int) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self.told():
            self._connection = sqlite3.connect(
                path or ":memory:", check_same_thread=False, isolation_level=None, timeout=BUSY / 1000
            )
        try:
            self._open(schema, version)
        except BaseException:
            self._connection.close()
            raise

    def _open(self, schema: str, version: int) -> None:
        with self.told():
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "temp_store=FILE", "cache_size=-4000"):
                self._connection.execute(f"PRAGMA {pragma}")
            with self.transaction():
                found, whose = self.one("PRAGMA user_version")[0], self.one("PRAGMA application_id")[0]
                if found == 0 and whose == 0 and not self.one("SELECT count(*) FROM sqlite_master")[0]:
                    for statement in schema.split(";\n"):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version={version}")
                    self._connection.execute(f"PRAGMA application_id={APPLICATION}")
                elif whose != APPLICATION:
                    raise InvalidFileError(f"{self.path} is a database, but no journal of a prebuild")
                elif found != version:
                    raise InvalidFileError(
                        f"{self.path} has schema {found}: this kit writes {version}",
                        "use the kit that wrote it, or give another folder with --journal",
                    )

    def run(self, statement: str, values: Iterable[Any] = ()) -> int:
        """Executes one statement; returns how many rows it changed."""
        with self._lock, self.told():
            return self._connection.execute(statement, tuple(values)).rowcount

    def run_many(self, statement: str, rows: Iterable[Row]) -> None:
        with self._lock, self.told():
            self._connection.executemany(statement, rows)

    def all(self, statement: str, values: Iterable[Any] = ()) -> list[Row]:
        """Every row at once: for what is known to be few."""
        with self._lock, self.told():
            return self._connection.execute(statement, tuple(values)).fetchall()

    def one(self, statement: str, values: Iterable[Any] = ()) -> Row:
        """The first row; empty when there is none."""
        with self._lock, self.told():
            found: Row | None = self._connection.execute(statement, tuple(values)).fetchone()
            return found or ()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; no other thread comes between. Within another: a part of that."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            with self.told():
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            with self.told():
                self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def dropped(self) -> Iterator[None]:
        """A transaction whose changes can be seen within, and are never made."""
        with self._lock:
            with self.told():
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                with self.told():
                    self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """SQLite's complaints as ours."""
        try:
            yield
        except sqlite3.Error as bad:
            raise _explained(bad, self.path) from bad

    def close(self) -> None:
        """Idempotent. Threads that come late get an error."""
        with self._lock:
            self._connection.close()


def _explained(bad: sqlite3.Error, path: Path | None) -> SlipworksError:
    name = getattr(bad, "sqlite_errorname", "")
    elsewhere = "--journal FOLDER, on a disk of this machine"
    if name.startswith("SQLITE_FULL"):
        return NoSpaceError(f"no space left for {path}", f"df -h {path.parent if path else '/tmp'}")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return InvalidFileError(f"{path} is no journal, or damaged: {bad}", f"mv {path} {path}.damaged")
    if name.startswith("SQLITE_BUSY"):
        return HostError(f"{path} is in use by another process, and stays so: {bad}", elsewhere)
    if name.startswith(("SQLITE_IOERR", "SQLITE_PROTOCOL", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return HostError(f"this file system cannot hold a journal, {path}: {bad}", elsewhere)
    return HostError(f"the journal {path} failed: {bad}")
