"""How often a registry's tokens are asked for, by how many threads, and with whose name."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from image_cache import credentials
from image_cache.challenges import Scope, TokenRequest
from image_cache.credentials import Credentials
from image_cache.door import Door, merged
from kit.errors import AuthError, NetworkError

BEARER = 'Bearer realm="https://reg/token",service="reg"'


class Service:
    """Gives a token for each request, but first raises what is in `failing`."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.failing: list[Exception] = []
        self.refused: set[str] = set()

    def __call__(self, way: TokenRequest, what: str) -> bytes:
        scopes = [*way.query["scope"]]
        self.asked.append(scopes)
        if self.failing:
            raise self.failing.pop(0)
        if self.refused.intersection(scopes):
            raise AuthError("not yours")
        return json.dumps({"token": f"for-{'-'.join(scopes)}"}).encode()


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The repositories for which credentials were looked up; there are none."""
    found: list[str] = []
    monkeypatch.setattr(credentials, "lookup", lambda host, repository, helper: found.append(repository))
    return found


def test_those_who_want_different_tokens_do_not_wait_for_each_other(looked: list[str]) -> None:
    all_ask = threading.Barrier(8)

    def ask(way: TokenRequest, what: str) -> bytes:
        all_ask.wait(10)  # breaks where they come one after the other
        return b'{"token": "x"}'

    door = Door("reg", ask)
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda each: door.open(BEARER, [(f"r{each}", "pull")], None), range(8)))
    assert opened == [True] * 8


def test_of_those_who_want_the_same_one_asks(looked: list[str]) -> None:
    service = Service()
    door = Door("reg", service)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: door.open(BEARER, [("a", "pull")], None), range(8)))
    assert service.asked == [["repository:a:pull"]]
    assert door.open(BEARER, [("a", "pull")], "Bearer for-repository:a:pull")  # it has expired
    assert len(service.asked) == 2


def test_a_login_is_looked_up_once_and_its_program_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def helped(name: str, host: str, environment: Mapping[str, str]) -> Credentials:
        asked.append(host)
        return Credentials(name, "u", "p")

    monkeypatch.setattr(credentials, "helped", helped)
    monkeypatch.setattr(
        credentials, "lookup", lambda host, repository, helper: helper("docker-credential-x", host, {})
    )
    service = Service()
    door = Door("reg", service)
    for number in range(20):
        assert door.open(BEARER, [(f"r{number}", "pull")], None)
    assert asked == ["reg"] and len(service.asked) == 20
    service.failing = [AuthError("that password was changed")]
    assert door.open(BEARER, [("another", "pull")], None)
    assert asked == ["reg", "reg"]


def test_what_an_image_needs_comes_in_one_token_before_it_is_refused(looked: list[str]) -> None:
    service = Service()
    door = Door("reg", service)
    both: tuple[Scope, ...] = (("t", "pull,push"), ("s", "pull"), ("h", "pull"))
    with door.together(both):
        assert door.header([("t", "pull")]) is None  # nobody said yet that it takes a token
        assert door.open(BEARER, [("t", "pull")], None)
        found = {door.header(each) for each in ([("t", "pull")], [("t", "pull,push"), ("h", "pull")], both)}
    assert len(found) == 1 and service.asked == [[f"repository:{name}:{what}" for name, what in both]]
    assert door.header([("t", "pull,push"), ("s", "pull")]) in found
    assert door.header([("later", "pull")]) == "Bearer for-repository:later:pull"  # without a refusal


def test_tokens_of_other_images_do_not_hide_those_of_this_one(looked: list[str]) -> None:
    service = Service()
    door = Door("reg", service)
    for image in ("t1", "t2"):
        with door.together([(image, "pull,push"), ("h", "pull")]):
            assert door.open(BEARER, [(image, "pull")], None)
    assert door.header([("t1", "pull,push"), ("h", "pull")]) and len(service.asked) == 2


def test_a_repository_that_is_not_ours_does_not_close_the_others(looked: list[str]) -> None:
    service = Service()
    service.refused = {"repository:theirs:pull"}
    door = Door("reg", service)
    assert door.open(BEARER, [("before", "pull")], None)
    with door.together([("ours", "pull,push"), ("theirs", "pull")]):
        assert door.header([("ours", "pull,push")]) == "Bearer for-repository:ours:pull,push"
        with pytest.raises(AuthError):
            door.header([("theirs", "pull")])


def test_a_service_that_never_took_us_is_not_asked_again(looked: list[str]) -> None:
    service = Service()
    service.failing = [AuthError("wrong password")]
    with pytest.raises(AuthError):
        Door("reg", service).open(BEARER, [("a", "pull")], None)
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b"\xff", b'{"token": "a\\nb"}', b'{"token": "\xc3\xa9"}']
)
def test_an_answer_without_a_token_is_a_failure_that_passes(looked: list[str], body: bytes) -> None:
    with pytest.raises(NetworkError, match=r"gave (no|a) token"):
        Door("reg", lambda way, what: body).open(BEARER, [("a", "pull")], None)


def test_scopes_of_one_repository_are_one() -> None:
    assert merged(("a", "pull"), ("b", "pull"), ("a", "pull,push")) == (("a", "pull,push"), ("b", "pull"))
