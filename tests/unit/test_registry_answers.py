"""What a registry may answer that no good one does: each is told as what it is, and nothing is given away."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from image_cache import answers, challenges, oci
from image_cache.asking import MOST, MOST_TOKEN
from image_cache.challenges import TokenRequest
from image_cache.places import Remembered, Source, blame
from image_cache.places.registry import RegistryTarget
from image_cache.prebuild import planning
from image_cache.references import Reference
from image_cache.registry import Registry
from image_cache.unfit import LostLayerError, SchemaOneError
from image_cache.wire import Wire
from kit.errors import (
    AuthError,
    HashMismatchError,
    InvalidFileError,
    NetworkError,
    NotFoundError,
    UnsupportedError,
)
from kit.nouns import digest
from tests.live.parts_registry import Faulty

BLOB = oci.Descriptor(oci.GZIP, digest(b"abcd"), 4)


@pytest.fixture
def server() -> Iterator[Faulty]:
    server = Faulty()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def other() -> Iterator[Faulty]:
    server = Faulty()
    yield server
    server.server.shutdown()
    server.server.server_close()


def asking(server: Faulty) -> Registry:
    return Registry(server.host, pause=0.001, timeout=5.0)


def known(registry: Registry) -> Registry:
    registry._out.door._tokens.keep_basic("Basic c2VjcmV0")
    return registry


# -- who sees who we are -------------------------------------------------------------------------------------


def test_another_port_of_the_same_host_is_not_told_who_we_are(server: Faulty, other: Faulty) -> None:
    server.then(202, Location=f"http://{other.host}/upload?state=x")
    other.then(201)
    known(asking(server)).put_blob("a/b", BLOB, lambda: iter([b"abcd"]))
    server.then(307, Location=f"http://{other.host}/signed")
    other.then(200, b"abcd")
    assert b"".join(known(asking(server)).blob("a/b", BLOB)) == b"abcd"
    assert all("Authorization" in headers for _, _, headers in server.seen)
    assert len(other.seen) == 2 and not any("Authorization" in headers for _, _, headers in other.seen)


def test_a_store_elsewhere_has_no_say_in_where_our_login_goes(server: Faulty, other: Faulty) -> None:
    server.then(307, Location=f"http://{other.host}/signed")
    other.then(401, WWW_Authenticate=f'Bearer realm="http://{other.host}/ours-now",service="x"')
    with pytest.raises(Exception, match="does not let us"):
        list(known(asking(server)).blob("a/b", BLOB))
    assert [path for _, path, _ in other.seen] == ["/signed"]


@pytest.mark.parametrize(
    ("said", "where", "here"),
    [
        ("/v2/up", "https://lab.io/v2/up", True),
        ("http://lab.io/v2/up", "https://lab.io/v2/up", True),  # of a registry that knows not of its TLS
        ("http://lab.io:8080/v2/up", "http://lab.io:8080/v2/up", False),
        ("https://lab.io:8443/v2/up", "https://lab.io:8443/v2/up", False),
        ("https://lab.io:443/v2/up", "https://lab.io/v2/up", True),
        ("http://store.io/up", "http://store.io/up", False),
    ],
)
def test_a_place_is_the_registrys_own_by_scheme_host_and_port(said: str, where: str, here: bool) -> None:
    wire = Wire("lab.io", "https://lab.io/v2", 1.0)
    place = wire.place(httpx.URL("https://lab.io/v2/x"), {"Location": said}, "an upload")
    assert (f"{place}", wire.is_here(place)) == (where, here)


@pytest.mark.parametrize(("said", "asked"), [("", 3), (',error="insufficient_scope"', 2)])
def test_a_401_of_one_that_let_us_in_may_pass(server: Faulty, said: str, asked: int) -> None:
    """A token service that fails says so; that we may not, is told once."""
    client, at = asking(server), Reference(server.host, "a/b", "c")
    challenge = f'Bearer realm="http://{server.host}/token",service="x"{said}'

    def refused() -> None:
        server.then(401, WWW_Authenticate=challenge)
        server.then(200, b'{"token": "t"}')

    refused()
    server.then(200, Docker_Content_Digest=BLOB.digest)
    assert client.head(at)
    server.seen.clear()
    refused()
    server.then(401, WWW_Authenticate=challenge)
    if said:
        with pytest.raises(AuthError):
            client.head(at)
    else:
        server.then(200, Docker_Content_Digest=BLOB.digest)
        assert client.head(at)
    assert not server.answers
    assert len([path for _, path, _ in server.seen if "token" not in path]) == asked


# -- what is no manifest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"{}", b'{"error": "later"}', b"[]", b"\xff"])
def test_a_page_in_place_of_a_manifest_says_nothing_about_the_image(server: Faulty, body: bytes) -> None:
    server.then(200, body)
    with pytest.raises(NetworkError, match="otherwise than a registry") as told:
        asking(server).manifest(Reference(server.host, "a/b", "c"))
    assert planning.error_class(told.value) == "transient"
    assert planning.state_after(told.value, looking=True) == "unknown"
    server.then(200, Content_Type="text/html", Docker_Content_Digest="none")
    server.then(200, body)
    with pytest.raises(NetworkError):
        asking(server).look(Reference(server.host, "a/b", "c"))


def test_only_schema_1_is_schema_1(server: Faulty) -> None:
    with pytest.raises(SchemaOneError):
        oci.kind_of(b'{"schemaVersion": 1}', "it")
    for raw in (b"{}", b'{"schemaVersion": 3}', b'{"schemaVersion": "2"}'):
        with pytest.raises(InvalidFileError, match="is no manifest"):
            oci.kind_of(raw, "it")
    server.then(200, b"{}")  # which are the very bytes that were asked for
    with pytest.raises(InvalidFileError):
        asking(server).manifest(Reference(server.host, "a/b", None, digest(b"{}")))


# -- bad headers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Location": "http://a\x01b/"}])
def test_an_upload_without_a_place_is_told(server: Faulty, headers: dict[str, str]) -> None:
    server.then(202, **headers)
    with pytest.raises(NetworkError, match="an upload without a Location"):
        asking(server).put_blob("a/b", BLOB, lambda: iter([b"abcd"]))
    server.then(307)
    with pytest.raises(NetworkError, match="a redirect without a Location"):
        list(asking(server).blob("a/b", BLOB))


@pytest.mark.parametrize(
    "said", ["Bearer", 'Bearer service="x"', 'Bearer realm="",service="x"', 'Bearer realm="x"']
)
def test_a_challenge_without_a_realm_is_told(said: str) -> None:
    with pytest.raises(NetworkError, match="no realm"):
        challenges.answer(f"Bearer {said}", [("a", "pull")], None)


@pytest.mark.parametrize(
    "said", ["²", "-1", "1e9", "٣", "", "Wed, 99 Foo 2015", "Mon, 01 Jan 0001 00:00:00 +1400"]
)
def test_when_to_come_back_may_be_nonsense(said: str) -> None:
    assert answers.seconds(said) in (None, 0.0)
    assert answers.refusal("lab.io", "it", 429, said)


def test_when_to_come_back_is_not_next_year() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(days=400), usegmt=True)
    assert answers.seconds("9" * 400) == answers.seconds(later) == answers.LONGEST


# -- what another lacks --------------------------------------------------------------------------------------


class Lacking:
    """A source whose layers are gone."""

    name = "hub.io"

    def blob(self, repository: str, blob: oci.Descriptor) -> Iterator[bytes]:
        yield b""
        raise NotFoundError(f"{repository}@{blob.digest} does not exist")


def test_a_layer_that_its_base_lacks_is_not_told_of_the_target(server: Faulty) -> None:
    server.then(404)
    server.then(202, Location="/v2/baked/b/blobs/uploads/1")
    server.then(201)
    source: Source = Lacking()  # type: ignore[assignment]
    lacks = pytest.raises(LostLayerError, match="the base lacks a layer: a/b@sha256")
    with lacks as told, blame.asking("target"):
        RegistryTarget(asking(server)).take("baked/b", BLOB, source, "a/b", Remembered())
    assert not blame.of_target(told.value) and planning.error_class(told.value) == "base missing"
    assert planning.state_after(told.value, looking=False) == "failed"


# -- too much ------------------------------------------------------------------------------------------------


def test_no_more_is_read_than_a_manifest_may_have(server: Faulty) -> None:
    server.then(200, b"{" + b" " * MOST)
    with pytest.raises(UnsupportedError, match="more than 8 MiB"):
        asking(server).manifest(Reference(server.host, "a/b", "c"))
    bomb = gzip.compress(b" " * 30 * MOST)
    server.then(200, bomb, Content_Encoding="gzip")
    with pytest.raises(UnsupportedError, match="more than 8 MiB"):
        asking(server).manifest(Reference(server.host, "a/b", "c"))


def test_no_more_is_read_of_a_config_than_was_promised(server: Faulty) -> None:
    for _ in range(5):
        server.then(200, b"x" * 100_000, cut=10)  # which would end early if it were read on
    with pytest.raises(HashMismatchError) as told:
        asking(server).small_blob("a/b", BLOB)
    assert hashlib.sha256(b"x" * 10).hexdigest() in told.value.message
    with pytest.raises(UnsupportedError, match="is a config of"):
        asking(server).small_blob("a/b", oci.Descriptor(oci.CONFIG, BLOB.digest, MOST + 1))


def test_no_more_is_read_than_a_token_may_have(server: Faulty) -> None:
    server.then(200, b" " * (MOST_TOKEN + 1))
    out = asking(server)._out
    with pytest.raises(UnsupportedError, match="more than 1 MiB"):
        out._token(TokenRequest(f"http://{server.host}/token", {}, {}, {}), "the token service")


# -- what is told --------------------------------------------------------------------------------------------


def test_no_signed_address_is_told(server: Faulty) -> None:
    for _ in range(5):
        server.then(307, Location="/store?X-Signature=s3cret")
        server.then(200, b"{}", Docker_Content_Digest=digest(b"other"))
    with pytest.raises(HashMismatchError) as told:
        asking(server).manifest(Reference(server.host, "a/b", "c"))
    assert "s3cret" not in f"{told.value}" and f"{server.host}/a/b:c came as sha256:" in told.value.message


# -- uploads in place of mounts ------------------------------------------------------------------------------


def test_an_upload_that_is_offered_in_place_of_a_mount_is_taken(server: Faulty) -> None:
    client = asking(server)
    server.then(202, Location="/v2/a/b/blobs/uploads/7?state=x")
    server.then(201)
    assert not client.mount("a/b", BLOB, "c/d")
    client.put_blob("a/b", BLOB, lambda: iter([b"abcd"]))
    assert [method for method, _, _ in server.seen] == ["POST", "PUT"]
    assert server.seen[-1][1].startswith("/v2/a/b/blobs/uploads/7?state=x&digest=")


def test_an_upload_that_is_not_needed_is_ended(server: Faulty) -> None:
    client = asking(server)
    for number in (1, 2):
        server.then(202, Location=f"/v2/a/b/blobs/uploads/{number}")
        assert not client.mount("a/b", BLOB, "c/d") or number == 2
        if number == 1:
            server.then(202, Location="/v2/a/b/blobs/uploads/other")
            server.then(204)
            assert not client.mount("a/b", BLOB, "e/f")
            server.then(200)
            server.then(204)
            assert client.has_blob("a/b", BLOB)
    server.then(201)
    server.then(404)  # it was ended by the registry itself: nothing to tell
    assert client.mount("a/b", BLOB, "g/h")
    ended = [path for method, path, _ in server.seen if method == "DELETE"]
    assert ended == [f"/v2/a/b/blobs/uploads/{each}" for each in ("1", "other", "2")]
    assert not client._offered and not server.answers
