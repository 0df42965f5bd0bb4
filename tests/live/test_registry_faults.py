"""What no real registry does on demand: quotas, failures, silence, broken connections, wrong bytes."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_cache import oci
from image_cache.references import Reference
from image_cache.registry import Registry
from image_cache.store import Store
from kit.errors import (
    HashMismatchError,
    NetworkError,
    QuotaError,
    UnsupportedError,
)
from kit.nouns import Platform
from tests.live.parts_pushed import log_in
from tests.live.parts_registry import PASSWORD, Faulty

pytestmark = pytest.mark.live
AMD64 = Platform("amd64")


def asking(faulty: Faulty) -> Registry:
    return Registry(faulty.host, pause=0.001, timeout=0.5)


def test_a_quota_is_waited_for_if_short_and_told_if_long(faulty: Faulty) -> None:
    faulty.then(429, Retry_After="0")
    faulty.then(200, Docker_Content_Digest="sha256:" + "1" * 64)
    assert asking(faulty).head(Reference(faulty.host, "a/b", "c")) == "sha256:" + "1" * 64
    faulty.then(429, Retry_After="7200")
    with pytest.raises(QuotaError, match="come back after 7200 s"):
        asking(faulty).head(Reference(faulty.host, "a/b", "c"))


def test_a_failing_server_is_asked_again_and_then_told(faulty: Faulty) -> None:
    for _ in range(4):
        faulty.then(503)
    faulty.then(200, Docker_Content_Digest="sha256:" + "2" * 64)
    assert asking(faulty).head(Reference(faulty.host, "a/b", "c"))
    for _ in range(5):
        faulty.then(500)
    with pytest.raises(NetworkError, match="failed with 500"):
        asking(faulty).head(Reference(faulty.host, "a/b", "c"))
    assert not faulty.answers


def test_silence_is_a_network_error(faulty: Faulty) -> None:
    done = threading.Event()
    for _ in range(5):
        faulty.then_silence(done)
    try:
        with pytest.raises(NetworkError, match="no answer in time"):
            asking(faulty).head(Reference(faulty.host, "a/b", "c"))
    finally:
        done.set()


def test_a_broken_download_goes_on_where_it_broke_off(faulty: Faulty, store: Store) -> None:
    body = random.Random(5).randbytes(300_000)
    blob = oci.Descriptor(oci.GZIP, "sha256:" + hashlib.sha256(body).hexdigest(), len(body))
    faulty.then(200, body, cut=100_000)
    faulty.then(206, body[100_000:], cut=50_000)
    faulty.then(200, body)  # a server that knows no ranges
    assert store.put_blob(asking(faulty).blob("a/b", blob), oci.GZIP, blob.digest) == blob
    assert [headers.get("Range") for _, _, headers in faulty.seen] == [None, "bytes=100000-", "bytes=150000-"]


def test_other_bytes_than_promised_are_not_taken(faulty: Faulty, store: Store) -> None:
    blob = oci.Descriptor(oci.GZIP, "sha256:" + "3" * 64, 4)
    faulty.then(200, b"evil")
    with pytest.raises(HashMismatchError):
        store.put_blob(asking(faulty).blob("a/b", blob), oci.GZIP, blob.digest)
    assert not list(store.blobs.iterdir())
    faulty.then(200, b'{"schemaVersion": 2}')
    with pytest.raises(HashMismatchError):
        asking(faulty).manifest(Reference(faulty.host, "a/b", None, "sha256:" + "4" * 64))


def test_more_bytes_than_promised_are_not_taken(faulty: Faulty, store: Store) -> None:
    blob = oci.Descriptor(oci.GZIP, "sha256:" + "3" * 64, 4)
    faulty.then(200, b"much more")
    with pytest.raises(HashMismatchError, match="more than the 4 bytes"):
        store.put_blob(asking(faulty).blob("a/b", blob), oci.GZIP, blob.digest)


def test_credentials_go_to_the_registry_alone(
    faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a registry does that keeps its blobs in a store elsewhere: the redirect's target gets none."""
    log_in(tmp_path, faulty.host, PASSWORD, monkeypatch)
    elsewhere = faulty.host.replace("localhost", "127.0.0.1")
    blob = oci.Descriptor(oci.GZIP, "sha256:" + "3" * 64, 4)
    faulty.then(401, WWW_Authenticate='Basic realm="x"')
    faulty.then(307, Location=f"http://{elsewhere}/signed?by=them")
    faulty.then(200, b"abcd")
    assert b"".join(asking(faulty).blob("a/b", blob)) == b"abcd"
    shown = [(path, "Authorization" in headers) for _, path, headers in faulty.seen]
    assert shown == [(shown[0][0], False), (shown[0][0], True), ("/signed?by=them", False)]
    faulty.seen.clear()
    faulty.then(401, WWW_Authenticate='Basic realm="x"')
    faulty.then(202, Location=f"http://{elsewhere}/upload?state=x")
    faulty.then(201)
    client = asking(faulty)
    client.put_blob("a/b", blob, lambda: iter([b"abcd"]))
    shown = [(path, "Authorization" in headers) for _, path, headers in faulty.seen]
    uploads, upload = "/v2/a/b/blobs/uploads/", "/upload?state=x&digest=sha256%3A" + "3" * 64
    assert shown == [(uploads, False), (uploads, True), (upload, False)]


def test_schema_1_is_named(faulty: Faulty) -> None:
    faulty.then(200, b'{"schemaVersion": 1, "fsLayers": []}')
    with pytest.raises(UnsupportedError, match="manifest schema 1"):
        asking(faulty).manifest(Reference(faulty.host, "a/b", "old"))


def test_an_upload_that_was_lost_on_its_way_is_begun_anew(faulty: Faulty) -> None:
    blob = oci.Descriptor(oci.GZIP, "sha256:" + hashlib.sha256(b"abcd").hexdigest(), 4)
    for words in (b"DIGEST_INVALID", b"BLOB_UPLOAD_UNKNOWN"):
        faulty.then(202, Location="/v2/a/b/blobs/uploads/1")
        faulty.then(404 if b"UNKNOWN" in words else 400, b'{"errors": [{"code": "%s"}]}' % words)
    faulty.then(202, Location="/v2/a/b/blobs/uploads/3?state=x")
    faulty.then(201)
    asking(faulty).put_blob("a/b", blob, lambda: iter([b"abcd"]))
    assert not faulty.answers and faulty.seen[-1][1].startswith("/v2/a/b/blobs/uploads/3?state=x&digest=")


def test_a_manifest_that_was_damaged_on_its_way_is_asked_for_again(faulty: Faulty) -> None:
    raw = b'{"schemaVersion": 2, "layers": []}'
    named = "sha256:" + hashlib.sha256(raw).hexdigest()
    faulty.then(200, raw[:-5], Docker_Content_Digest=named)
    faulty.then(200, raw, cut=7, Docker_Content_Digest=named)
    faulty.then(200, raw, Docker_Content_Digest=named)
    assert asking(faulty).manifest(Reference(faulty.host, "a/b", "c"))[0] == raw


def test_one_that_is_told_to_wait_makes_all_threads_wait(faulty: Faulty) -> None:
    """Retry-After is of the registry, not of the request that happened to hear it."""
    faulty.then(429, Retry_After="1")
    for _ in range(4):
        faulty.then(200, Docker_Content_Digest="sha256:" + "1" * 64)
    client, at = asking(faulty), Reference(faulty.host, "a/b", "c")
    began = time.monotonic()
    first = threading.Thread(target=client.head, args=(at,))
    first.start()
    while not faulty.seen or not client.pause:
        time.sleep(0.005)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: client.head(at), range(3)))
    first.join()
    assert time.monotonic() - began >= 1 and len(faulty.seen) == 5


def test_when_a_failing_server_wants_to_be_asked_is_not_waited_for(faulty: Faulty) -> None:
    for _ in range(2):
        faulty.then(500, Retry_After="30")
    faulty.then(200, Docker_Content_Digest="sha256:" + "1" * 64)
    began = time.monotonic()
    assert asking(faulty).head(Reference(faulty.host, "a/b", "c"))
    assert time.monotonic() - began < 20


def test_the_quota_of_docker_hub_is_kept_as_it_is_said(faulty: Faulty) -> None:
    said = {"RateLimit_Limit": "100;w=21600", "RateLimit_Remaining": "0;w=21600"}
    faulty.then(200, Docker_Content_Digest="sha256:" + "1" * 64, **said)
    client, at = asking(faulty), Reference(faulty.host, "a/b", "c")
    assert client.head(at) and client.quota
    assert (client.quota.limit, client.quota.window, client.quota.remaining) == (100, 21600, 0)
    with pytest.raises(QuotaError, match="no more requests") as told:
        client.manifest(at)  # which would be counted: it is not even sent
    assert told.value.seconds and 200 < told.value.seconds <= 216 and len(faulty.seen) == 1
    faulty.then(404)
    assert client.head(at) is None  # which is not counted


def test_a_token_service_that_fails_is_not_a_missing_image(faulty: Faulty) -> None:
    client = asking(faulty)
    faulty.then(401, WWW_Authenticate=f'Bearer realm="http://{faulty.host}/token",service="x"')
    for _ in range(2):
        faulty.then(503)
    faulty.then(200, b'{"token": "cut', cut=5)
    faulty.then(200, b'{"token": "abc"}')
    faulty.then(200, Docker_Content_Digest="sha256:" + "1" * 64)
    assert client.head(Reference(faulty.host, "a/b", "c"))
    assert faulty.seen[-1][2]["Authorization"] == "Bearer abc"
