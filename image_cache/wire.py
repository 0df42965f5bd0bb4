"""Connections to one registry, and to where it sends us; and which of them may see who we are."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
from msgspec import Struct

from image_cache.trust import trusted
from kit.errors import NetworkError

IDLE = 15.0  # seconds that a connection is kept for the next request
DIRECT = ("localhost", "127.0.0.1", "::1")  # no proxy can reach this machine for us
REDIRECTS = (301, 302, 303, 307, 308)
ALWAYS = {"User-Agent": "slipworks", "Accept-Encoding": "identity"}
Place = httpx.URL
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


class Wire:
    """Authorization goes to the registry's own scheme, host and port alone.

    api: the address of its API. counts: requests by method, for progress and for tests.
    """

    def __init__(self, host: str, api: str, timeout: float) -> None:
        self.host, self.api = host, api
        self.counts: dict[str, int] = {}
        self._counting = threading.Lock()
        self._root = httpx.URL(api)
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, 15.0)).as_dict()
        self._proxy = _proxy(api)
        self._lanes: list[httpx.HTTPTransport] = []
        self._elsewhere = httpx.Client(
            timeout=httpx.Timeout(**self._timeout), verify=trusted(), headers=dict(ALWAYS),
            mounts=dict.fromkeys(f"all://{'[::1]' if each == '::1' else each}" for each in DIRECT),
        )  # fmt: skip

    @contextlib.contextmanager
    def sent(
        self, method: str, where: str | httpx.URL, known: str | None, headers: Mapping[str, str],
        body: bytes | Body | None,
    ) -> Iterator[httpx.Response]:  # fmt: skip
        """One request to a path below the API, or to an address that the registry gave. known: who we are."""
        with self._counting:
            self.counts[method] = self.counts.get(method, 0) + 1
        url, more = self._addressed(where)
        here = self.is_here(url)
        shown = {"Authorization": known} if known and here else {}
        request = httpx.Request(
            method, url, headers={**ALWAYS, **headers, **shown}, content=body() if callable(body) else body,
            extensions={"timeout": self._timeout, **more},
        )  # fmt: skip
        if not here:
            with contextlib.closing(self._elsewhere.send(request, stream=True)) as answer:
                yield answer
            return
        with self._lane() as lane, contextlib.closing(lane.handle_request(request)) as answer:
            answer.request = request
            if answer.status_code not in REDIRECTS or method not in ("GET", "HEAD"):
                yield answer
                return
            next_ = self.place(url, answer.headers, "a redirect")
        kept = {**headers, **(shown if self.is_here(next_) else {})}
        again = self._elsewhere.build_request(method, next_, headers=kept)
        with contextlib.closing(self._elsewhere.send(again, stream=True, follow_redirects=True)) as answer:
            yield answer

    def elsewhere(self, method: str, url: str, headers: Mapping[str, str], most: int, **more: Any) -> Answer:
        """A whole answer of an address that is no part of the API."""
        try:
            request = self._elsewhere.build_request(method, url, headers=headers, **more)
        except httpx.InvalidURL as bad:
            raise NetworkError(f"{self.host} sends us to what is no address") from bad
        with contextlib.closing(self._elsewhere.send(request, stream=True)) as answer:
            return Answer(answer.status_code, answer.headers, whole(answer, most), answer.url)

    def is_here(self, url: httpx.URL) -> bool:
        """An upload may be sent to another host, and a download too: they are not told who we are."""
        return (url.scheme, url.host, url.port) == (self._root.scheme, self._root.host, self._root.port)

    def place(self, asked: httpx.URL, headers: Mapping[str, str], what: str) -> httpx.URL:
        """Where an answer says to go on. Registries behind something that speaks TLS for them may not know of
        it, and name their own address without: then it is kept."""
        try:
            url = asked.join(headers.get("Location") or "\0")
        except httpx.InvalidURL as bad:
            raise NetworkError(
                f"{self.host} answered {what} without a Location header that is an address"
            ) from bad
        lost = (url.scheme, self._root.scheme) == ("http", "https") and url.host == self._root.host
        if lost and url.port in (None, self._root.port):
            return url.copy_with(scheme=self._root.scheme, port=self._root.port)
        return url

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


def whole(answer: httpx.Response, most: int) -> bytes:
    """The body, of which no more is read than it takes to know that it is longer than `most`."""
    found = bytearray()
    for piece in answer.iter_bytes():
        found += piece
        if len(found) > most:
            break
    return bytes(found)


def _proxy(url: str) -> httpx.Proxy | None:
    """The proxy that the environment has for an address."""
    where = httpx.URL(url)
    if where.host in DIRECT or urllib.request.proxy_bypass(where.netloc.decode()):
        return None
    found = urllib.request.getproxies()
    proxy = found.get(where.scheme) or found.get("all")
    return httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}") if proxy else None


def hopeless(broken: Exception) -> bool:
    """TLS failures are the same every time."""
    return "[SSL" in str(broken)


def plainly(broken: Exception) -> str:
    if isinstance(broken, httpx.TimeoutException):
        return "no answer in time"
    return str(broken) or type(broken).__name__
