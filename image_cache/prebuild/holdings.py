"""Which repository of the target has which blob, remembered between runs: a Known of image_cache.places."""

from __future__ import annotations

import threading

from image_cache.prebuild.database import Database

MOST = 4096  # holders that are kept in mind


class Holdings:
    """What is added is written with `flush`, many at once: a kill in between only costs questions that are
    asked again. Threads may share it.

    The database is never called under the lock: who has the database's own lock, in a transaction, takes this
    one in `flush`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._fresh: dict[str, set[str]] = {}  # repositories by digest
        self._named: dict[str, str] = {}  # holders by digest
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
            if self._named.get(digest) == repository:
                del self._named[digest]
        self.database.run("DELETE FROM blobs WHERE digest=? AND repository=?", (digest, repository))

    def holder(self, digest: str) -> str | None:
        """The same one each time, until it is forgotten: who mounts from it may need a token for it."""
        with self._lock:
            found = self._named.get(digest) or next(iter(self._fresh.get(digest, ())), None)
        if found is None:
            row = self.database.one("SELECT repository FROM blobs WHERE digest=? LIMIT 1", (digest,))
            found = row[0] if row else None
        if found is None:
            return None
        with self._lock:
            if len(self._named) >= MOST:
                self._named.clear()
            return self._named.setdefault(digest, found)

    def flush(self) -> None:
        """Writes down what was added; within a transaction of the database, as a part of it."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        rows = [(digest, name) for digest, names in fresh.items() for name in names]
        if rows:
            self.database.run_many("INSERT OR IGNORE INTO blobs VALUES (?, ?)", rows)
