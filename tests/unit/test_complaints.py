"""What the complaints of engines and of their tools mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from containers import complaints
from kit.errors import (
    AuthError,
    BuildError,
    HashMismatchError,
    HostError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    QuotaError,
    UnsupportedError,
)

RECORDED = Path(__file__).parent / "recorded"
KINDS = {
    "401": AuthError,
    "403": AuthError,
    "404": NotFoundError,
    "429": QuotaError,
    "503": NetworkError,
    "refused": NetworkError,
    "name": NetworkError,
    "hash": HashMismatchError,
    "space": NoSpaceError,
    "subids": HostError,
    "capabilities": HostError,
    "zstd": UnsupportedError,
}


@pytest.mark.parametrize("recorded", sorted(RECORDED.glob("*.txt")), ids=lambda path: path.stem)
def test_recorded_complaints_are_understood(recorded: Path) -> None:
    kind = KINDS[recorded.stem.rpartition("-")[2]]
    found = complaints.explain("build tiny", recorded.read_text(), "localhost/base:1", code=1)
    assert type(found) is kind, found.message
    assert found.message.startswith("could not build tiny: ")
    assert found.hint
    assert "\n" not in found.message


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_a_hash_mismatch_names_package_and_both_hashes(tool: str) -> None:
    found = complaints.explain("build tiny", (RECORDED / f"{tool}-hash.txt").read_text(), None)
    assert isinstance(found, HashMismatchError)
    assert "tinything" in found.message
    assert "found sha256:a3eedf6b" in found.message
    assert "expected sha256:0000" in found.message
    assert "nothing was installed" in found.message


def test_an_unknown_complaint_keeps_its_last_lines() -> None:
    found = complaints.explain("build tiny", "one\n\ntwo\n", None, code=3)
    assert type(found) is BuildError
    assert found.message == "could not build tiny: ended with exit code 3, its last lines:\n  one\n  two"


def test_a_quoted_line_never_shows_credentials() -> None:
    text = "error: dial tcp: http://me:hunter2@index.invalid/simple: connection refused"
    assert "hunter2" not in complaints.explain("build tiny", text, None).message


def test_a_hash_mismatch_names_its_lock_and_what_to_do() -> None:
    text = (RECORDED / "uv-hash.txt").read_text()
    locks = {
        "tools/build.lock": "",
        "stacks/cpu/cp313-amd64.lock": f"tinything==1.0 --hash=sha256:{'0' * 64}",
    }
    found = complaints.explain("build tiny", text, None, context=locks)
    assert "tinything==1.0" in found.message and "lock: stacks/cpu/cp313-amd64.lock" in found.message
    assert found.hint and "runner lock --line cpu --again" in found.hint
    assert "(lock: " not in complaints.explain("build tiny", text, None, context={}).message


def test_a_pull_without_network_names_its_base() -> None:
    base = "docker.io/library/python@sha256:12ab"
    text = "Error: initializing source docker://python@sha256:12ab: pinging container registry: no such host"
    found = complaints.explain("build tiny", text, base)
    assert "docker://python@sha256:12ab" in found.message
    assert f"pulling {base}" in found.message
    index = complaints.explain("build tiny", "error: tcp connect error: http://index/simple", base)
    assert base not in index.message, "not every trouble with the network is about the base"


def test_a_long_line_is_quoted_from_a_whole_word_on() -> None:
    words = " ".join(f"word{number}" for number in range(100))
    quoted = complaints.explain("build tiny", f"{words} no such host", None).message.partition("… ")[2]
    assert quoted.split()[0] in words.split() and quoted.endswith("no such host")
    assert len(quoted) <= complaints.LONGEST


def test_a_silence_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(complaints, "QUIET", 0.2)
    argv = ["sh", "-c", "echo Trying to pull x:1; sleep 1"]
    complaints.stream(argv, what="build tiny", base=None, update=lambda line: None)
    told = capsys.readouterr().err.splitlines()
    assert told == ["still trying to build tiny: not a word for 0 s, after: Trying to pull x:1"]
    argv = ["sh", "-c", "for word in 1 2 3 4 5 6 7 8 9; do echo same; sleep 0.05; done"]
    complaints.stream(argv, what="build tiny", base=None, update=lambda line: None)
    assert capsys.readouterr().err == ""


# What is passed to an engine
