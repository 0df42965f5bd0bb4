"""A registry's door: what opens it is asked for as seldom as can be, and by many threads at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from image_cache import challenges, credentials
from image_cache.challenges import Scope, TokenRequest
from image_cache.credentials import Credentials
from image_cache.places.turns import Turns
from image_cache.tokens import Tokens
from kit.errors import AuthError, NetworkError

FRESH = 60.0  # seconds in which credentials that were refused are not looked up again


class Door:
    """ask: sends a request to the token service of that name, and returns the body of its success.

    Only threads that want the same wait for each other.
    """

    def __init__(self, host: str, ask: Callable[[TokenRequest, str], bytes]) -> None:
        self.host, self._ask = host, ask
        self._tokens, self._turns = Tokens(), Turns()
        self._here = threading.local()
        self._bearer: str | None = None  # how tokens are asked for here, once that was said
        self.let_in = False  # the registry took what we showed it, at least once
        self._served = False  # the token service took our credentials before
        self._credentials: dict[str, Credentials | None] = {}  # by repository
        self._helped: dict[tuple[str, str], Credentials | None] = {}  # what helper programs said
        self._looked = 0.0
        self._looking = threading.Lock()

    @contextlib.contextmanager
    def together(self, scopes: Sequence[Scope]) -> Iterator[None]:
        """What this thread needs a token for, it asks for with all of these in one."""
        self._here.scopes = tuple(scopes)
        try:
            yield
        finally:
            self._here.scopes = ()

    def header(self, scopes: Sequence[Scope]) -> str | None:
        """What opens all of the scopes; where tokens are known to be wanted, one is got first."""
        if found := self._tokens.header(scopes):
            return found
        if self._bearer:
            self.open(self._bearer, scopes, None)
        return self._tokens.header(scopes)

    def open(self, challenge: str, scopes: Sequence[Scope], refused: str | None) -> bool:
        """Gets what the registry asks for. False: we have nothing that it could take.

        Of many threads that are refused at once (a token has expired) one asks, and the others have it too.
        """
        together = merged(*scopes, *getattr(self._here, "scopes", ()))
        wanted = tuple(scopes) if refused else together  # that may be what they do not like
        with self._turns(*(f"{name} {actions}" for name, actions in sorted(wanted))):
            if self._tokens.header(scopes) not in (None, refused):
                return True
            if refused and time.monotonic() - self._looked > FRESH:
                self._forget()
            try:
                return self._opened(challenge, wanted)
            except AuthError:
                if wanted == tuple(scopes) and not self._served:
                    raise
            # One of those may not be ours; and services that know us well say 401 now and then.
            self._forget()
            return self._opened(challenge, tuple(scopes))

    def _opened(self, challenge: str, scopes: tuple[Scope, ...]) -> bool:
        way = challenges.answer(challenge, scopes, self._found(scopes[0][0]))
        if isinstance(way, TokenRequest):
            what = f"the token service of {self.host}"
            self._tokens.keep(scopes, f"Bearer {_token_in(self._ask(way, what), what)}")
            self._bearer, self._served = challenge, True
        elif way:
            self._tokens.keep_basic(way)
        return way is not None

    def _found(self, repository: str) -> Credentials | None:
        with self._looking:
            if not self._credentials:
                self._looked = time.monotonic()
            if repository not in self._credentials:
                found = credentials.lookup(self.host, repository, helper=self._help)
                self._credentials[repository] = found
            return self._credentials[repository]

    def _help(self, name: str, host: str, environment: Mapping[str, str]) -> Credentials | None:
        """A program is asked once, for however many repositories."""
        if (name, host) not in self._helped:
            self._helped[name, host] = credentials.helped(name, host, environment)
        return self._helped[name, host]

    def _forget(self) -> None:
        with self._looking:
            self._credentials.clear()
            self._helped.clear()


def merged(*scopes: Scope) -> tuple[Scope, ...]:
    """Each repository once, with all that is wanted of it."""
    found: dict[str, str] = {}
    for name, actions in scopes:
        found[name] = max(found.get(name, ""), actions, key=len)
    return tuple(found.items())


def _token_in(body: bytes, what: str) -> str:
    try:
        table = msgspec.json.decode(body)
        token = str(table.get("token") or table["access_token"])
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, KeyError) as bad:
        raise NetworkError(f"{what} gave no token") from bad
    if not (token.isascii() and token.isprintable()):
        raise NetworkError(f"{what} gave a token that fits no header")
    return token
