"""The one way out to a registry: connections, authorization, patience, and what is tried again.

Requests that failed for a reason that passes (answers.PASSING, a broken connection, a body that was cut
short) are tried again with growing pauses. Threads may share an Asking, and then wait together where the
registry says so (quota.py).
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import httpx

from image_cache import answers, references
from image_cache.challenges import Scope, TokenRequest
from image_cache.door import Door
from image_cache.quota import Gate
from image_cache.wire import Answer, Body, Wire, hopeless, plainly, whole
from kit.errors import HashMismatchError, QuotaError, SlipworksError, UnsupportedError

TRIES = 5
DOUBTS = 3  # tries where we are refused, and were not before
PATIENCE = 60.0  # seconds that we wait because a registry says so; more is an error that says how long
MOST = 8 << 20  # bytes of what is read whole: manifests and indexes; of a token MOST_TOKEN
MOST_TOKEN = 1 << 20
Scopes = Sequence[Scope]


class Asking:
    """Requests to one registry. pause: seconds before the second try."""

    def __init__(self, host: str, insecure: bool, pause: float, timeout: float, patience: float) -> None:
        self.host = host
        self.api = references.api(host, insecure)
        self.pause = pause
        self.gate = Gate(host, patience)
        self.wire = Wire(host, self.api, timeout)
        self.door = Door(host, self._token)

    def small(
        self, method: str, path: str, what: str, *scopes: Scope,
        headers: Mapping[str, str] | None = None, body: bytes | None = None, counted: bool = False,
        check: Callable[[Answer], None] = lambda answer: None, most: int = MOST,
    ) -> Answer:  # fmt: skip
        """A whole answer; it is no refusal (answers.py). path: below the API.

        check: raises HashMismatchError for a body that was damaged on its way; then it is asked for again.
        most: bytes of a body after which no more is read, UnsupportedError where nothing checks it.
        """

        def ask() -> Answer:
            with self.opened(method, path, scopes, headers or {}, body) as open_:
                found = Answer(open_.status_code, open_.headers, whole(open_, most), open_.url)
            if most == MOST:
                self._bounded(found, what, most)
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
                told = b"" if answer.is_success else whole(answer, MOST)
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
                if failed >= TRIES or hopeless(trouble):
                    raise self._told(trouble, what) from trouble
                time.sleep(self.backoff(failed))
                continue
            said = self.gate.heard(answer.status, answer.headers)
            waited += said
            failed += not said
            if failed >= self._tries(answer) or waited > self.gate.patience:
                return answer
            if not said:
                time.sleep(self.backoff(failed))

    def _tries(self, answer: Answer) -> int:
        """How often what is answered so is tried at most. One that let us in before may say 401 where a part
        of it fails; that our login is not enough, it says otherwise."""
        if answer.status == 401 and self.door.let_in:
            return 1 if "insufficient_scope" in answer.headers.get("WWW-Authenticate", "") else DOUBTS
        return TRIES if answer.status in answers.PASSING else 0

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
        with self.wire.sent(method, where, known, headers, body) as answer:
            self.door.let_in |= known is not None and answer.is_success
            challenge = answer.headers.get("WWW-Authenticate") if answer.status_code == 401 else None
            # Another host, to which we were sent, has no say in where our login goes.
            if challenge is None or not self.wire.is_here(answer.request.url):
                yield answer
                return
            said = whole(answer, MOST)
            plain = {name: each for name, each in answer.headers.items() if name != "content-encoding"}
            refused = httpx.Response(401, headers=plain, content=said, request=answer.request)
        if not self.door.open(challenge, scopes, known):
            yield refused
            return
        with self.wire.sent(method, where, self.door.header(scopes), headers, body) as answer:
            self.door.let_in |= answer.is_success
            yield answer

    def _token(self, way: TokenRequest, what: str) -> bytes:
        method, more = ("POST", {"data": way.form}) if way.form else ("GET", {"params": way.query})

        def ask() -> Answer:
            answer = self.wire.elsewhere(method, way.url, way.authorization, MOST_TOKEN, **more)
            return self._bounded(answer, what, MOST_TOKEN)

        return self.found(self.accepted(self.retried(ask, what), what), what).body

    def _bounded(self, answer: Answer, what: str, most: int) -> Answer:
        if answer.ok and len(answer.body) > most:
            raise UnsupportedError(f"{self.host} sent more than {most >> 20} MiB for {what}")
        return answer
