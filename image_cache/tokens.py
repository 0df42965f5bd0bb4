"""The headers that open a registry, by what they open. They stay in memory and are never shown."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from image_cache.challenges import Scope

MOST = 512  # tokens of some kilobytes; a list of bases may name thousands of repositories


class Tokens:
    """turn: held by the thread that asks for a new one."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._basic: str | None = None
        self._by_scope: OrderedDict[tuple[Scope, ...], str] = OrderedDict()
        self._lock = threading.Lock()

    def header(self, scopes: Sequence[Scope]) -> str | None:
        """What opens all of the scopes, or None."""
        if self._basic or not self._by_scope:
            return self._basic
        with self._lock:
            found = self._by_scope.get(tuple(scopes))
            if found:
                self._by_scope.move_to_end(tuple(scopes))
            return found

    def keep(self, scopes: Sequence[Scope], header: str) -> None:
        """A token for several scopes opens each of them too, and reading where one may write."""
        with self._lock:
            for opened in (tuple(scopes), *((one,) for one in scopes), *((_read(one),) for one in scopes)):
                self._by_scope[opened] = header
                self._by_scope.move_to_end(opened)
            while len(self._by_scope) > MOST:
                self._by_scope.popitem(last=False)

    def keep_basic(self, header: str) -> None:
        self._basic = header


def _read(scope: Scope) -> Scope:
    return (scope[0], "pull")
