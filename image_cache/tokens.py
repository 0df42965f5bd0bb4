"""The headers that open a registry, by what they open. They stay in memory and are never shown."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from image_cache.challenges import Scope

MOST = 512  # tokens of some kilobytes; a list of bases may name thousands of repositories

Token = tuple[str, frozenset[Scope]]


class Tokens:
    """The newest for each scope, up to MOST of them."""

    def __init__(self) -> None:
        self._basic: str | None = None
        self._by_scope: OrderedDict[Scope, Token] = OrderedDict()
        self._lock = threading.Lock()

    def header(self, scopes: Sequence[Scope]) -> str | None:
        """What opens all of the scopes, or None."""
        if self._basic or not self._by_scope:
            return self._basic
        with self._lock:
            for scope in scopes:
                header, opened = self._by_scope.get(scope, (None, frozenset[Scope]()))
                if opened.issuperset(scopes):
                    self._by_scope.move_to_end(scope)
                    return header
        return None

    def keep(self, scopes: Sequence[Scope], header: str) -> None:
        """A token for several scopes opens each of them too, and reading where one may write."""
        token = header, frozenset((*scopes, *map(_read, scopes)))
        with self._lock:
            for scope in token[1]:
                self._by_scope[scope] = token
                self._by_scope.move_to_end(scope)
            while len(self._by_scope) > MOST:
                self._by_scope.popitem(last=False)

    def keep_basic(self, header: str) -> None:
        self._basic = header


def _read(scope: Scope) -> Scope:
    return (scope[0], "pull")
