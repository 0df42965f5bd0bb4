"""How often a registry wants to be asked, as it says it, and one gate for all threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from image_cache.places.turns import Turns
from image_cache.quota import Gate, announced
from image_cache.tokens import MOST, Tokens
from kit.errors import QuotaError


class Clock:
    """Time that passes only by sleeping, and only as far as the longest sleeper."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds


def gate(patience: float = 60.0) -> tuple[Gate, Clock]:
    clock = Clock()
    return Gate("docker.io", patience, clock, clock.sleep), clock


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}, (100, 21600, 76)),
        ({"RateLimit-Limit": "200;w=21600"}, (200, 21600, None)),
        ({"RateLimit-Limit": "500", "RateLimit-Remaining": "0"}, (500, None, 0)),
        ({"RateLimit-Limit": "10, 10;w=1, 50;w=60"}, (10, 1, None)),
        ({"RateLimit-Limit": "unlimited"}, None),
        ({"RateLimit-Remaining": "5"}, None),
        ({}, None),
    ],
)
def test_what_is_announced(headers: dict[str, str], expected: tuple[int, int | None, int | None]) -> None:
    found = announced(headers)
    assert (found and (found.limit, found.window, found.remaining)) == expected


def test_an_open_gate_lets_all_through() -> None:
    shut, clock = gate()
    shut.heard(200, {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "3"})
    assert not shut.heard(500, {"Retry-After": "30"})  # not an answer that says when to come back
    shut.enter("it", counted=True)
    assert not clock.slept and shut.quota and shut.quota.remaining == 3


def test_retry_after_shuts_it_for_all_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    shut, clock = gate()
    shut.heard(429, {"Retry-After": "20"})
    assert shut.left() == 20
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: shut.enter("it", counted=False), range(4)))
    assert 20 <= clock.now - 100 < 21 * 4 and shut.left() == 0
    assert capsys.readouterr().err == "docker.io wants us to wait 20 s: waiting\n"
    shut.heard(503, {"Retry-After": "5"})
    shut.enter("it", counted=False)
    assert "wait 5 s" in capsys.readouterr().err


def test_what_is_too_long_to_wait_for_is_an_error_that_says_how_long() -> None:
    shut, clock = gate()
    shut.heard(429, {"Retry-After": "7200"})
    with pytest.raises(QuotaError, match="no more requests from us for 7200 s") as told:
        shut.enter("a/b", counted=False)
    assert told.value.seconds == 7200 and not clock.slept


def test_a_quota_that_is_used_up_holds_back_only_what_is_counted() -> None:
    shut, clock = gate(patience=1000)
    shut.heard(200, {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"})
    shut.enter("a HEAD", counted=False)
    assert not clock.slept
    shut.enter("a manifest", counted=True)
    assert 216 <= clock.slept[0] < 222  # a hundredth of the window
    shut.heard(200, {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "2;w=21600"})
    assert shut.left() == 0


def test_turns_are_taken_one_after_the_other_and_nothing_is_kept() -> None:
    turns, inside, most = Turns(), [0], [0]

    def work(number: int) -> None:
        with turns("a", "b"), turns(f"{number}"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == [1] and not turns._taken


def test_tokens_open_each_of_their_scopes_and_reading_too() -> None:
    tokens = Tokens()
    assert tokens.header((("a", "pull"),)) is None
    tokens.keep((("a", "pull,push"), ("b", "pull")), "Bearer both")
    for scopes in (
        (("a", "pull,push"), ("b", "pull")),
        (("a", "pull"),),
        (("a", "pull,push"),),
        (("b", "pull"),),
    ):
        assert tokens.header(scopes) == "Bearer both"
    assert tokens.header((("b", "pull,push"),)) is None
    tokens.keep_basic("Basic x")
    assert tokens.header((("c", "pull"),)) == "Basic x"


def test_no_more_tokens_are_kept_than_so_many() -> None:
    tokens = Tokens()
    for number in range(3 * MOST):
        tokens.keep(((f"r{number}", "pull"),), f"{number}")
        tokens.header((("r0", "pull"),))  # what is in use stays
    assert tokens.header((("r0", "pull"),)) == "0"
    assert tokens.header((("r1", "pull"),)) is None
    assert len(tokens._by_scope) == MOST
