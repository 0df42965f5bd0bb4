"""The one way out to a registry: connections, authorization, patience, and what is tried again.

Requests that failed for a reason that passes (answers.PASSING, a broken connection, a body that was cut
short) are tried again with growing pauses. Threads may share an Asking, and then wait together where the
registry says so (quota.py).
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
from msgspec import Struct

from image_cache import answers, references
from image_cache.challenges import Scope, TokenRequest
from image_cache.door import Door
from image_cache.quota import Gate
from image_cache.trust import trusted
from kit.errors import HashMismatchError, QuotaError, SlipworksError

TRIES = 5
PATIENCE = 60.0  # seconds that we wait because a registry says so; more is an error that says how long
IDLE = 15.0  # seconds that a connection is kept for the next request

DIRECT = ("localhost", "127.0.0.1", "::1")  # no proxy can reach this machine for us
REDIRECTS = (301, 302, 303, 307, 308)
Scopes = Sequence[Scope]
Body = Callable[[], Iterator[bytes]]  # made anew for each try
BrokenError = httpx.RequestError
"""A connection that failed, at any moment."""


class Answer(Struct, frozen=True):
    """An answer that was read to its end."""

    status: int
    headers: httpx.Headers
    body: bytes
    url: httpx.URL

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Asking:
    """Requests to one registry. pause: seconds before the second try."""

    def __init__(self, host: str, insecure: bool, pause: float, timeout: float, patience: float) -> None:
        self.host = host
        self.api = references.api(host, insecure)
        self.pause = pause
        self.gate = Gate(host, patience)
        self.counts: dict[str, int] = {}  # requests by method, for progress and for tests
        self._counting = threading.Lock()
        self.door = Door(host, self._token)
        self._root = httpx.URL(self.api)
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, 15.0)).as_dict()
        self._proxy = _proxy(self.api)
        self._lanes: list[httpx.HTTPTransport] = []
        self._elsewhere = httpx.Client(
            timeout=httpx.Timeout(**self._timeout), verify=trusted(), headers=dict(ALWAYS),
            mounts=dict.fromkeys(f"all://{'[::1]' if each == '::1' else each}" for each in DIRECT),
        )  # fmt: skip

    def small(
        self, method: str, path: str, what: str, *scopes: Scope,
        headers: Mapping[str, str] | None = None, body: bytes | None = None, counted: bool = False,
        check: Callable[[Answer], None] = lambda answer: None,
    ) -> Answer:  # fmt: skip
        """A whole answer; it is no refusal (answers.py). path: below the API.

        check: raises HashMismatchError for a body that was damaged on its way; then it is asked for again.
        """

        def ask() -> Answer:
            with self.opened(method, path, scopes, headers or {}, body) as open_:
                found = Answer(open_.status_code, open_.headers, open_.read(), open_.url)
            check(found)
            return found

        return self.accepted(self.retried(ask, what, counted), what)

    @contextlib.contextmanager
    def stream(
        self, path: str, what: str, scope: Scope, headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        """A successful answer to GET whose body is still to come."""
        with contextlib.ExitStack() as kept:
            open_: list[httpx.Response] = []

            def ask() -> Answer:
                kept.close()
                open_[:] = [answer := kept.enter_context(self.opened("GET", path, (scope,), headers))]
                told = b"" if answer.is_success else answer.read()
                return Answer(answer.status_code, answer.headers, told, answer.url)

            self.found(self.accepted(self.retried(ask, what), what), what)
            yield open_[0]

    def accepted(self, answer: Answer, what: str) -> Answer:
        if refused := answers.refusal(self.host, what, answer.status, answer.headers.get("Retry-After")):
            if isinstance(refused, QuotaError) and refused.seconds is None and self.gate.quota:
                refused.seconds = self.gate.quota.each  # Docker Hub announces its rate, and no time
            raise refused
        return answer

    def found(self, answer: Answer, what: str) -> Answer:
        """Raises for every answer that is no success, with the registry's own words."""
        if not answer.ok:
            raise answers.failure(self.host, what, answer.status, answers.words(answer.body))
        return answer

    def retried(self, ask: Callable[[], Answer], what: str, counted: bool = False) -> Answer:
        """Until an answer comes that another try would not change; the last one of TRIES in any case.

        Waiting as the registry says is no failed try, as long as it stays within our patience.
        """
        waited, failed = 0.0, 0
        while True:
            self.gate.enter(what, counted)
            try:
                answer = ask()
            except (httpx.RequestError, HashMismatchError) as trouble:
                failed += 1
                if failed >= TRIES or _hopeless(trouble):
                    raise self._told(trouble, what) from trouble
                time.sleep(self.backoff(failed))
                continue
            said = self.gate.heard(answer.status, answer.headers)
            waited += said
            failed += not said
            if answer.status not in answers.PASSING or failed >= TRIES or waited > self.gate.patience:
                return answer
            if not said:
                time.sleep(self.backoff(failed))

    def _told(self, trouble: Exception, what: str) -> SlipworksError:
        if isinstance(trouble, SlipworksError):
            return trouble
        return answers.unreachable(self.host, self.api, what, plainly(trouble))

    def backoff(self, attempt: int) -> float:
        """Seconds until the next try: doubling, with jitter so that many nodes do not come back together."""
        doubling: float = self.pause * 2 ** (attempt - 1)
        return doubling * random.uniform(0.5, 1.0)

    @contextlib.contextmanager
    def opened(
        self, method: str, where: str | httpx.URL, scopes: Scopes, headers: Mapping[str, str],
        body: bytes | Body | None = None,
    ) -> Iterator[httpx.Response]:  # fmt: skip
        """One request to a path below the API, or to an address that the registry gave; its body is not read
        yet. Once more with authorization when the registry asks for it.

        A body that is read to its end leaves the connection for the next request.
        """
        known = self.door.header(scopes)
        with self._sent(method, where, known, headers, body) as answer:
            challenge = answer.headers.get("WWW-Authenticate") if answer.status_code == 401 else None
            if challenge is None:
                yield answer
                return
            refused = httpx.Response(
                401, headers=answer.headers, content=answer.read(), request=answer.request
            )
        if not self.door.open(challenge, scopes, known):
            yield refused
            return
        with self._sent(method, where, self.door.header(scopes), headers, body) as answer:
            yield answer

    @contextlib.contextmanager
    def _sent(
        self, method: str, where: str | httpx.URL, known: str | None, headers: Mapping[str, str],
        body: bytes | Body | None,
    ) -> Iterator[httpx.Response]:  # fmt: skip
        with self._counting:
            self.counts[method] = self.counts.get(method, 0) + 1
        url, more = self._addressed(where)
        ours = url.host == self._root.host
        # Only to the registry itself: an upload may be sent to another host, and so may we be.
        shown = {"Authorization": known} if known and ours else {}
        request = httpx.Request(
            method, url, headers={**ALWAYS, **headers, **shown}, content=body() if callable(body) else body,
            extensions={"timeout": self._timeout, **more},
        )  # fmt: skip
        if not ours:
            with contextlib.closing(self._elsewhere.send(request, stream=True)) as answer:
                yield answer
            return
        with self._lane() as lane, contextlib.closing(lane.handle_request(request)) as answer:
            answer.request = request
            if answer.status_code not in REDIRECTS or method not in ("GET", "HEAD"):
                yield answer
                return
            next_ = url.join(answer.headers.get("Location", ""))
        kept = {**headers, **(shown if next_.host == self._root.host else {})}
        again = self._elsewhere.build_request(method, next_, headers=kept)
        with contextlib.closing(self._elsewhere.send(again, stream=True, follow_redirects=True)) as answer:
            yield answer

    def _addressed(self, where: str | httpx.URL) -> tuple[httpx.URL, dict[str, Any]]:
        """What httpx is to be given. It parses an address for a quarter of the time of a request, so a path
        is handed through as it is; a proxy wants whole addresses."""
        if isinstance(where, httpx.URL):
            return where, {}
        if self._proxy:
            return httpx.URL(f"{self.api}/{where}"), {}
        return self._root, {"target": f"/v2/{where}".encode()}

    @contextlib.contextmanager
    def _lane(self) -> Iterator[httpx.HTTPTransport]:
        """A connection of one's own. httpx's pool searches all its connections for each request, which many
        threads pay for; here the one used last is taken, and there are as many as are used at once."""
        try:
            lane = self._lanes.pop()
        except IndexError:
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE)
            lane = httpx.HTTPTransport(verify=trusted(), limits=limits, proxy=self._proxy)
        try:
            yield lane
        finally:
            self._lanes.append(lane)

    def _token(self, way: TokenRequest, what: str) -> bytes:
        method, more = ("POST", {"data": way.form}) if way.form else ("GET", {"params": way.query})

        def ask() -> Answer:
            request = self._elsewhere.build_request(method, way.url, headers=way.authorization, **more)
            answer = self._elsewhere.send(request)
            return Answer(answer.status_code, answer.headers, answer.content, answer.url)

        return self.found(self.accepted(self.retried(ask, what), what), what).body


ALWAYS = {"User-Agent": "slipworks", "Accept-Encoding": "identity"}


def _proxy(url: str) -> httpx.Proxy | None:
    """The proxy that the environment has for an address."""
    where = httpx.URL(url)
    if where.host in DIRECT or urllib.request.proxy_bypass(where.netloc.decode()):
        return None
    found = urllib.request.getproxies()
    proxy = found.get(where.scheme) or found.get("all")
    return httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}") if proxy else None


def _hopeless(broken: Exception) -> bool:
    """TLS failures are the same every time."""
    return "[SSL" in str(broken)


def plainly(broken: Exception) -> str:
    if isinstance(broken, httpx.TimeoutException):
        return "no answer in time"
    return str(broken) or type(broken).__name__
