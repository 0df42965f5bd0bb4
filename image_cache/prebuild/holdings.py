"""Which repository of the target has which blob, remembered between runs: a Known of image_cache.places."""

from __future__ import annotations

import threading

from image_cache.prebuild.database import Database


class Holdings:
    """What is added is written with `flush`, many at once: a kill in between only costs questions that are
    asked again. Threads may share it.

    The database is never called under the lock: who has the database's own lock, in a transaction, takes this
    one in `flush`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._fresh: dict[str, set[str]] = {}  # repositories by digest
        self._lock = threading.Lock()

    def has(self, repository: str, digest: str) -> bool:
        with self._lock:
            if repository in self._fresh.get(digest, ()):
                return True
        return bool(
            self.database.one("SELECT 1 FROM blobs WHERE digest=? AND repository=?", (digest, repository))
        )

    def add(self, repository: str, digest: str) -> None:
        with self._lock:
            self._fresh.setdefault(digest, set()).add(repository)

    def forget(self, repository: str, digest: str) -> None:
        with self._lock:
            self._fresh.get(digest, set()).discard(repository)
        self.database.run("DELETE FROM blobs WHERE digest=? AND repository=?", (digest, repository))

    def holder(self, digest: str) -> str | None:
        with self._lock:
            if found := self._fresh.get(digest):
                return next(iter(found))
        row = self.database.one("SELECT repository FROM blobs WHERE digest=? LIMIT 1", (digest,))
        return row[0] if row else None

    def flush(self) -> None:
        """Writes down what was added; within a transaction of the database, as a part of it."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        rows = [(digest, name) for digest, names in fresh.items() for name in names]
        if rows:
            self.database.run_many("INSERT OR IGNORE INTO blobs VALUES (?, ?)", rows)
