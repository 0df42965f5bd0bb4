"""The one HTTP door: a small client of the OCI distribution API, for one registry.

What went wrong is said by kind: 401 and 403 AuthError, 404 NotFoundError, 429 QuotaError, no connection,
time-out or a failing server NetworkError; of these only NotFoundError says that something does not exist.
Requests that failed for a reason that passes (429, 5xx, a broken connection) are tried again with growing
pauses; a download goes on where it broke off. Threads may share a Registry.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import httpx
import msgspec

from image_cache import answers, challenges, credentials, oci, references
from image_cache.challenges import Scope, TokenRequest
from image_cache.oci import Descriptor
from image_cache.references import Reference
from image_cache.trust import trusted
from kit.errors import AuthError, HashMismatchError, NetworkError
from kit.nouns import Platform, digest

ACCEPT = {"Accept": ", ".join((oci.INDEX, oci.DOCKER_LIST, oci.MANIFEST, oci.DOCKER_MANIFEST))}
TRIES = 5
PATIENCE = 60.0  # seconds that we wait because a registry says so; more is an error that says how long

DIRECT = ("all://localhost", "all://127.0.0.1", "all://[::1]")  # no proxy can reach this machine for us
Scopes = Sequence[Scope]
Body = Callable[[], Iterator[bytes]]  # made anew for each try


def resolve(reference: str, platform: Platform | None = None, *, client: Registry | None = None) -> str:
    """The digest that a reference stands for now: of the index if there is one, or, with `platform`, of that
    platform's manifest."""
    wanted = Reference.parse(reference)
    client = client or Registry(wanted.host)
    if platform is not None:
        return digest(client.image(wanted, platform)[0])
    found = client.head(wanted)
    if found is None:
        raise answers.failure(wanted.host, f"{wanted}", 404, "")
    return found


class Registry:
    """A registry by its host, as in `localhost:5000`. pause: seconds before the second try."""

    def __init__(
        self, host: str, *, insecure: bool = False, pause: float = 0.5, timeout: float = 60.0
    ) -> None:
        self.host = host
        self.api = references.api(host, insecure)
        self.pause = pause
        self.quota: str | None = None
        self.counts: dict[str, int] = {}  # requests by method, for progress and for tests
        self._counting = threading.Lock()
        self._host = httpx.URL(self.api).host
        self._known: dict[str, str] = {}  # scopes, or "basic" -> the header that opens them; never shown
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 15.0)),
            verify=trusted(),
            headers={"User-Agent": "slipworks", "Accept-Encoding": "identity"},
            mounts=dict.fromkeys(DIRECT),
        )

    def head(self, reference: Reference) -> str | None:
        """The digest that a tag stands for, or None when there is no such tag. Not counted by Docker Hub."""
        with self._manifest("HEAD", reference) as answer:
            if answer.status_code == 404:
                return None
            named: str | None = answer.headers.get("Docker-Content-Digest")
        return named or digest(self.manifest(reference)[0])

    def look(self, reference: Reference) -> tuple[str, str] | None:
        """The same with the media type."""
        with self._manifest("HEAD", reference) as answer:
            if answer.status_code == 404:
                return None
            named, kind = answer.headers.get("Docker-Content-Digest"), answer.headers.get("Content-Type", "")
        return named or digest(self.manifest(reference)[0]), kind

    def manifest(self, reference: Reference) -> tuple[bytes, str]:
        """The bytes of a manifest or index, and its media type. HashMismatchError when a digest was asked for
        and these are not its bytes."""
        with self._manifest("GET", reference) as answer:
            self._found(answer, f"{reference}")
            raw = b"".join(answer.iter_raw())
        if reference.digest and digest(raw) != reference.digest:
            raise HashMismatchError(f"{self.host} sent {digest(raw)} for {reference}")
        return raw, oci.kind_of(raw, f"{reference}")

    def image(self, reference: Reference, platform: Platform) -> tuple[bytes, oci.Manifest]:
        """The manifest of a platform, through an index where there is one. The config has the last word.
        UnsupportedError, naming what there is, when there is none for the platform."""
        raw, _, _ = self.opened(reference, platform)
        return raw, oci.manifest(raw, f"{reference}")

    def opened(self, reference: Reference, platform: Platform) -> tuple[bytes, bytes, str]:
        """The same manifest, its config and its digest; each document is fetched once."""
        raw, kind = self.manifest(reference)
        if kind in (oci.INDEX, oci.DOCKER_LIST):
            chosen = oci.choose(oci.index(raw, f"{reference}").manifests, platform, f"{reference}")[0]
            reference = Reference(self.host, reference.repository, None, chosen.digest)
            raw, kind = self.manifest(reference)
        config = self.small_blob(reference.repository, oci.manifest(raw, f"{reference}").config)
        oci.check_platform(oci.config(config, f"{reference}"), platform, f"{reference}")
        return raw, config, digest(raw)

    def small_blob(self, repository: str, blob: Descriptor) -> bytes:
        """A config: checked against its digest."""
        raw = b"".join(self.blob(repository, blob))
        if digest(raw) != blob.digest:
            raise HashMismatchError(f"{self.host} sent {digest(raw)} for {repository}@{blob.digest}")
        return raw

    def _manifest(self, method: str, of: Reference) -> AbstractContextManager[httpx.Response]:
        url = f"{self.api}/{of.repository}/manifests/{of.wanted}"
        return self._asked(method, url, f"{of}", (of.repository, "pull"), headers=ACCEPT)

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> str:
        """Puts a manifest whose blobs are there under the reference's tag; returns its digest."""
        url = f"{self.api}/{reference.repository}/manifests/{reference.wanted}"
        scope, what = (reference.repository, "pull,push"), f"{reference}"
        headers = {"Content-Type": media_type, "Content-Length": str(len(raw))}
        with self._asked("PUT", url, what, scope, headers=headers, body=lambda: iter([raw])) as answer:
            self._found(answer, what)
        return digest(raw)

    def has_blob(self, repository: str, blob: Descriptor) -> bool:
        url = f"{self.api}/{repository}/blobs/{blob.digest}"
        with self._asked("HEAD", url, f"{self.host}/{repository}", (repository, "pull")) as answer:
            return answer.status_code == 200

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        """A blob's bytes, in pieces; goes on where a connection broke. The taker checks the digest."""
        url, what = f"{self.api}/{repository}/blobs/{blob.digest}", f"{self.host}/{repository}@{blob.digest}"
        at = failures = 0
        while at < blob.size or (at == blob.size == 0 and not failures):
            before = at
            trouble = "the connection ended early"
            try:
                headers = {"Range": f"bytes={at}-"} if at else {}
                with self._asked("GET", url, what, (repository, "pull"), headers=headers) as answer:
                    self._found(answer, what)
                    skip = at if answer.status_code == 200 else 0  # a registry without ranges begins anew
                    for (
                        piece
                    ) in answer.iter_raw():  # as they come: a gathered one would be lost when it breaks
                        fresh, skip = piece[skip:], max(0, skip - len(piece))
                        at += len(fresh)
                        yield fresh
            except httpx.RequestError as broken:
                trouble = _plainly(broken)
            if at > blob.size:
                raise HashMismatchError(f"{self.host} sent more than the {blob.size} bytes of {what}")
            if at == blob.size:
                return
            failures = 1 if at > before else failures + 1
            if failures >= TRIES:
                raise NetworkError(f"could not download {what}: {trouble} after {at} of {blob.size} bytes")
            time.sleep(self._backoff(failures))

    def mount(self, repository: str, blob: Descriptor, source: str) -> bool:
        """Takes a blob over from another repository of this registry. False: it has to be uploaded."""
        where = httpx.URL(f"{self.api}/{repository}/blobs/uploads/")
        url = where.copy_merge_params({"mount": blob.digest, "from": source})
        scopes = ((repository, "pull,push"), (source, "pull"))  # in one token, or it is not mounted
        try:
            # 202 offers an upload instead; Docker's registry 2.8 says 400 when two ask for the same at once.
            with self._asked("POST", url, f"{self.host}/{repository}", *scopes) as answer:
                return answer.status_code == 201
        except AuthError:
            return False  # the source may be another's

    def put_blob(self, repository: str, blob: Descriptor, body: Body) -> None:
        """Uploads a blob in one piece; begins anew, with a new upload, when that fails for what may pass."""
        what, scope = f"{self.host}/{repository}", (repository, "pull,push")

        def upload() -> httpx.Response:
            with self._asked("POST", f"{self.api}/{repository}/blobs/uploads/", what, scope) as begun:
                self._found(begun, what)
                place = begun.url.join(begun.headers["Location"]).copy_merge_params({"digest": blob.digest})
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
            return self._send("PUT", place, (scope,), headers, body)

        with self._closing(self._retried(upload, what), what) as answer:
            self._found(answer, what)

    # -- the one way out ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _asked(
        self, method: str, url: str | httpx.URL, what: str, *scopes: Scope,
        headers: Mapping[str, str] | None = None, body: Body | None = None,
    ) -> Iterator[httpx.Response]:  # fmt: skip
        """An answer whose body is not read yet. It is no refusal (answers.py)."""
        send = functools.partial(self._send, method, httpx.URL(url), scopes, headers or {}, body)
        with self._closing(self._retried(send, what), what) as answer:
            yield answer

    @contextlib.contextmanager
    def _closing(self, answer: httpx.Response, what: str) -> Iterator[httpx.Response]:
        with contextlib.closing(answer):
            after = answer.headers.get("Retry-After")
            if refused := answers.refusal(self.host, what, answer.status_code, after):
                raise refused
            yield answer

    def _retried(self, send: Callable[[], httpx.Response], what: str) -> httpx.Response:
        for attempt in range(1, TRIES + 1):
            try:
                answer = send()
            except httpx.RequestError as broken:
                if attempt == TRIES or _hopeless(broken):
                    raise answers.unreachable(self.host, self.api, what, _plainly(broken)) from broken
                wait = self._backoff(attempt)
            else:
                wait = self._backoff(attempt, answer)
                if answer.status_code not in answers.PASSING or attempt == TRIES or wait > PATIENCE:
                    return answer
                answer.close()
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _send(
        self,
        method: str,
        url: httpx.URL,
        scopes: Scopes,
        headers: Mapping[str, str],
        body: Body | None,
    ) -> httpx.Response:
        """One request; once more with authorization when the registry asks for it."""
        answer = self._sent(method, url, scopes, headers, body)
        if answer.status_code != 401 or not (challenge := answer.headers.get("WWW-Authenticate")):
            return answer
        answer.close()
        if not self._authorize(challenge, scopes):
            return answer
        return self._sent(method, url, scopes, headers, body)

    def _sent(
        self,
        method: str,
        url: httpx.URL,
        scopes: Scopes,
        headers: Mapping[str, str],
        body: Body | None,
    ) -> httpx.Response:
        with self._counting:
            self.counts[method] = self.counts.get(method, 0) + 1
        known = self._known.get(_key(scopes)) or self._known.get("basic")
        # Only to the registry itself: an upload may be sent to another host, and httpx drops it on redirects.
        trusted = {"Authorization": known} if known and url.host == self._host else {}
        content = body() if body else None
        request = self._http.build_request(method, url, headers={**headers, **trusted}, content=content)
        return self._http.send(request, stream=True, follow_redirects=method in ("GET", "HEAD"))

    def _authorize(self, challenge: str, scopes: Scopes) -> bool:
        """Gets what the registry asks for. False: we have nothing that it could take."""
        way = challenges.answer(challenge, scopes, credentials.lookup(self.host, scopes[0][0]))
        if isinstance(way, TokenRequest):
            ask = functools.partial(self._token, way)
            with self._closing(self._retried(ask, self.host), self.host) as answer:
                self._found(answer, f"the token service of {self.host}")
                table = msgspec.json.decode(answer.read())
            self._known[_key(scopes)] = f"Bearer {table.get('token') or table.get('access_token')}"
        elif way:
            self._known["basic"] = way
        return way is not None

    def _token(self, way: TokenRequest) -> httpx.Response:
        method, more = ("POST", {"data": way.form}) if way.form else ("GET", {"params": way.query})
        request = self._http.build_request(method, way.url, headers=way.authorization, **more)
        return self._http.send(request, stream=True)

    def _found(self, answer: httpx.Response, what: str) -> None:
        """Raises for every answer that is no success, with the registry's own words."""
        if not answer.is_success:
            words = answers.words(next(answer.iter_raw(4096), b""))
            raise answers.failure(self.host, what, answer.status_code, words)

    def _backoff(self, attempt: int, answer: httpx.Response | None = None) -> float:
        """Seconds until the next try: what the registry says, else doubling, with jitter so that many nodes
        do not come back together."""
        said = answers.seconds(answer.headers.get("Retry-After")) if answer is not None else None
        doubling = self.pause * 2 ** (attempt - 1)
        return doubling * random.uniform(0.5, 1.0) if said is None else said + random.uniform(0, self.pause)


def _key(scopes: Scopes) -> str:
    return " ".join(f"{name}:{actions}" for name, actions in scopes)


def _hopeless(broken: httpx.RequestError) -> bool:
    """TLS failures are the same every time."""
    return "[SSL" in str(broken)


def _plainly(broken: httpx.RequestError) -> str:
    if isinstance(broken, httpx.TimeoutException):
        return "no answer in time"
    return str(broken) or type(broken).__name__
