"""A small client of the OCI distribution API, for one registry: what can be asked of it.

What went wrong is said by kind: 401 and 403 AuthError, 404 NotFoundError, 429 QuotaError, no connection,
time-out or a failing server NetworkError; of these only NotFoundError says that something does not exist.
Requests that failed for a reason that passes are tried again (asking.py); a download goes on where it broke
off. Threads may share a Registry.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from image_cache import answers, oci
from image_cache.answers import BlobsMissingError
from image_cache.asking import MOST, PATIENCE, TRIES, Asking
from image_cache.challenges import Scope
from image_cache.oci import Descriptor
from image_cache.quota import Quota
from image_cache.references import Reference
from image_cache.wire import Answer, Body, BrokenError, Place, plainly, whole
from kit.errors import (
    AuthError,
    HashMismatchError,
    InvalidFileError,
    NetworkError,
    SlipworksError,
    UnsupportedError,
)
from kit.nouns import Platform, digest

ACCEPT = {"Accept": ", ".join((oci.INDEX, oci.DOCKER_LIST, oci.MANIFEST, oci.DOCKER_MANIFEST))}
BYTES = "application/octet-stream"
# DIGEST_INVALID, SIZE_INVALID, BLOB_UPLOAD_UNKNOWN: something on the way ate it.
UPLOAD_LOST = (400, 404, 416)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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
    """A registry by its host, as in `localhost:5000`.

    pause: seconds before the second try. patience: seconds that are waited where the registry says so.
    """

    def __init__(
        self, host: str, *, insecure: bool = False, pause: float = 0.5, timeout: float = 60.0,
        patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self.host = host
        self._out = Asking(host, insecure, pause, timeout, patience)
        self._offered: dict[tuple[str, str], Place] = {}  # uploads, in place of mounts

    @property
    def counts(self) -> dict[str, int]:
        """Requests by method."""
        return self._out.wire.counts

    @property
    def quota(self) -> Quota | None:
        """What the registry announced last; None when it never did."""
        return self._out.gate.quota

    @property
    def pause(self) -> float:
        """Seconds for which the registry wants to be left alone."""
        return self._out.gate.left()

    def together(self, *scopes: Scope) -> contextlib.AbstractContextManager[None]:
        """Inside, this thread gets one token for all of these, as soon as it needs one for any."""
        return self._out.door.together(scopes)

    def head(self, reference: Reference) -> str | None:
        """The digest that a tag stands for, or None when there is no such tag. Not counted by Docker Hub."""
        found = self.look(reference)
        return found and found[0]

    def look(self, reference: Reference) -> tuple[str, str] | None:
        """The same with the media type."""
        answer = self._manifest("HEAD", reference)
        if answer.status == 404:
            return None
        named = answer.headers.get("Docker-Content-Digest") if answer.ok else None
        if not (named and _DIGEST.fullmatch(named)):
            named = digest(self.manifest(reference)[0])
        return named, answer.headers.get("Content-Type", "")

    def manifest(self, reference: Reference) -> tuple[bytes, str]:
        """The bytes of a manifest or index, and its media type. HashMismatchError when a digest was asked for
        and these are not its bytes."""
        raw = self._out.found(self._manifest("GET", reference), f"{reference}").body
        if reference.digest and digest(raw) != reference.digest:
            raise HashMismatchError(f"{self.host} sent {digest(raw)} for {reference}")
        try:
            return raw, oci.kind_of(raw, f"{reference}")
        except InvalidFileError as other:
            if reference.digest:
                raise
            # A page of something on the way says nothing about the image.
            raise NetworkError(f"{self.host} answered otherwise than a registry: {other.message}") from other

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

    def _manifest(self, method: str, of: Reference) -> Answer:
        path = f"{of.repository}/manifests/{of.wanted}"
        return self._out.small(
            method, path, f"{of}", (of.repository, "pull"), headers=ACCEPT, counted=method == "GET",
            check=lambda answer: _undamaged(answer, f"{of}"),
        )  # fmt: skip

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> str:
        """Puts a manifest whose blobs are there under the reference's tag; returns its digest.
        BlobsMissingError when the registry lacks some of them."""
        path, what = f"{reference.repository}/manifests/{reference.wanted}", f"{reference}"
        scope, headers = (reference.repository, "pull,push"), {"Content-Type": media_type}
        answer = self._out.small("PUT", path, what, scope, headers=headers, body=raw)
        if not answer.ok and b"BLOB_UNKNOWN" in answer.body:
            raise BlobsMissingError(f"{self.host} lacks blobs of {what}{answers.words(answer.body)}")
        self._out.found(answer, what)
        return digest(raw)

    def has_blob(self, repository: str, blob: Descriptor) -> bool:
        path, what = f"{repository}/blobs/{blob.digest}", f"{self.host}/{repository}"
        there = self._out.small("HEAD", path, what, (repository, "pull")).status == 200
        if there:
            self._no_longer(repository, blob)
        return there

    def small_blob(self, repository: str, blob: Descriptor) -> bytes:
        """A config: checked against its digest."""
        path, what = f"{repository}/blobs/{blob.digest}", f"{self.host}/{repository}@{blob.digest}"

        if blob.size > MOST:
            raise UnsupportedError(f"{what} is a config of {blob.size} bytes: expected {MOST} at most")

        def check(answer: Answer) -> None:
            if answer.ok and digest(answer.body) != blob.digest:
                raise HashMismatchError(f"{self.host} sent {digest(answer.body)} for {what}")

        scope = (repository, "pull")
        answer = self._out.small("GET", path, what, scope, check=check, most=min(blob.size, MOST - 1))
        return self._out.found(answer, what).body

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        """A blob's bytes, in pieces; goes on where a connection broke. The taker checks the digest."""
        path, what = f"{repository}/blobs/{blob.digest}", f"{self.host}/{repository}@{blob.digest}"
        at = failures = 0
        while at < blob.size or (at == blob.size == 0 and not failures):
            before = at
            trouble = "the connection ended early"
            try:
                headers = {"Range": f"bytes={at}-"} if at else {}
                with self._out.stream(path, what, (repository, "pull"), headers) as answer:
                    skip = at if answer.status_code == 200 else 0  # a registry without ranges begins anew
                    for piece in answer.iter_raw():  # as they come: a gathered one would be lost
                        fresh, skip = piece[skip:], max(0, skip - len(piece))
                        at += len(fresh)
                        yield fresh
            except BrokenError as broken:
                trouble = plainly(broken)
            if at > blob.size:
                raise HashMismatchError(f"{self.host} sent more than the {blob.size} bytes of {what}")
            if at == blob.size:
                return
            failures = 1 if at > before else failures + 1
            if failures >= TRIES:
                raise NetworkError(f"could not download {what}: {trouble} after {at} of {blob.size} bytes")
            time.sleep(self._out.backoff(failures))

    def mount(self, repository: str, blob: Descriptor, source: str) -> bool:
        """Takes a blob over from another repository of this registry. False: it has to be uploaded."""
        path = f"{repository}/blobs/uploads/?mount={blob.digest}&from={source}"
        scopes = ((repository, "pull,push"), (source, "pull"))  # in one token, or it is not mounted
        try:
            # Docker's registry 2.8 says 400 when two ask for the same at once.
            answer = self._out.small("POST", path, f"{self.host}/{repository}", *scopes)
        except AuthError:
            return False  # the source may be another's
        self._no_longer(repository, blob)
        if answer.status == 202 and "Location" in answer.headers:
            self._offered[repository, blob.digest] = self._out.wire.place(
                answer.url, answer.headers, "a mount"
            )
        return answer.status == 201

    def _no_longer(self, repository: str, blob: Descriptor) -> None:
        """Ends an upload that was offered in place of a mount, if there is one, so that none is left open."""
        if place := self._offered.pop((repository, blob.digest), None):
            scopes = ((repository, "pull,push"),)
            with (
                contextlib.suppress(SlipworksError, BrokenError),
                self._out.opened("DELETE", place, scopes, {}) as ended,
            ):
                whole(ended, MOST)

    def put_blob(self, repository: str, blob: Descriptor, body: Body) -> None:
        """Uploads a blob in one piece; begins anew, with a new upload, when that fails for what may pass.
        HashMismatchError when the registry gets other bytes each time."""
        what, scope = f"{self.host}/{repository}", (repository, "pull,push")
        headers = {"Content-Type": BYTES, "Content-Length": str(blob.size)}

        def upload() -> Answer:
            place = self._offered.pop((repository, blob.digest), None)
            if place is None:
                begun = self._out.small("POST", f"{repository}/blobs/uploads/", what, scope)
                self._out.found(begun, what)
                place = self._out.wire.place(begun.url, begun.headers, "an upload")
            place = place.copy_merge_params({"digest": blob.digest})
            with self._out.opened("PUT", place, (scope,), headers, body) as ended:
                answer = Answer(ended.status_code, ended.headers, whole(ended, MOST), place)
            if answer.status in UPLOAD_LOST:
                raise HashMismatchError(
                    f"{self.host} did not get all of {blob.digest}{answers.words(answer.body)}"
                )
            return answer

        self._out.found(self._out.accepted(self._out.retried(upload, what), what), what)


def _undamaged(answer: Answer, what: str) -> None:
    """The registry says itself what it sent."""
    said = answer.headers.get("Docker-Content-Digest")
    if answer.ok and answer.body and said and said.startswith("sha256:") and digest(answer.body) != said:
        raise HashMismatchError(f"{what} came as {digest(answer.body)}: expected {said[:80]}")
