"""Fat binaries that NVIDIA's own tools made (recorded/gpu/README.md), and files that are none."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from containers import fatbin
from containers.fatbin import Code, Fat
from kit.errors import InvalidFileError

GPU = Path(__file__).with_name("recorded") / "gpu"


def codes(raw: bytes) -> tuple[Fat, ...]:
    return fatbin.read(io.BytesIO(raw), 0, len(raw), "a test")


def recorded(name: str) -> bytes:
    return (GPU / f"{name}.fatbin").read_bytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", (Code("sass", 90),)),
        ("sm_90", (Code("sass", 90, packed=True),)),
        ("sm_90a", (Code("sass", 90, "a", packed=True),)),
        ("sm_100f", (Code("sass", 100, "f", packed=True),)),
        ("ptx_80", (Code("ptx", 80, packed=True),)),
        ("lz4", (Code("ptx", 90, packed=True), Code("sass", 90, packed=True))),
        (
            "several",
            (
                Code("ptx", 90, packed=True), Code("ptx", 90, "a", packed=True),
                Code("ptx", 100, "f", packed=True),
                Code("sass", 80, packed=True), Code("sass", 90, "a", packed=True),
            ),
        ),
    ],
)  # fmt: skip
def test_what_nvidias_tools_made(name: str, expected: tuple[Code, ...]) -> None:
    assert codes(recorded(name)) == (Fat(expected, 1),)


def test_a_section_holds_many_with_gaps_between() -> None:
    raw = recorded("sm_90") + bytes(24) + recorded("sm_80") + recorded("sm_90") + bytes(8)
    assert codes(raw) == (
        Fat((Code("sass", 80, packed=True),), 1),
        Fat((Code("sass", 90, packed=True),), 2),
    )


@pytest.mark.parametrize("name", ["plain", "sm_90", "lz4", "ptx_80"])
def test_a_header_alone_is_not_believed(name: str) -> None:
    raw = recorded(name)
    with pytest.raises(InvalidFileError, match=r"holds something else|is damaged"):
        codes(raw[:80] + b"sm_90 compute_90" * 4 + raw[144:])


@pytest.mark.parametrize("size", [40, 100, 500])
def test_cut_short(size: int) -> None:
    with pytest.raises(InvalidFileError, match="no fat binary at offset 0"):
        codes(recorded("sm_90")[:size])


def test_text_is_no_fat_binary() -> None:
    with pytest.raises(InvalidFileError, match="no fat binary"):
        codes(b"sm_90 compute_90 .target sm_90  ")


@pytest.mark.parametrize(
    ("code", "runs", "runs_not"),
    [
        (Code("sass", 80), ["8.0", "8.6", "8.9"], ["7.5", "9.0", "10.0"]),
        (Code("sass", 86), ["8.6", "8.9"], ["8.0", "9.0"]),
        (Code("sass", 87), ["8.7"], ["8.0", "8.9"]),
        (Code("sass", 90), ["9.0"], ["8.9", "10.0"]),
        (Code("sass", 90, "a"), ["9.0"], ["8.0", "10.0"]),
        (Code("sass", 100), ["10.0", "10.3"], ["9.0", "11.0", "12.0"]),
        (Code("sass", 100, "a"), ["10.0"], ["10.3", "12.0"]),
        (Code("sass", 100, "f"), ["10.0", "10.3"], ["9.0", "12.0"]),
        (Code("ptx", 80), ["8.0", "8.9", "9.0", "12.1"], ["7.5"]),
        (Code("ptx", 90, "a"), ["9.0"], ["10.0", "8.9"]),
        (Code("ptx", 100, "f"), ["10.0", "10.3"], ["12.0", "9.0"]),
        (Code("other", 90), [], ["9.0"]),
    ],
)
def test_what_runs_where(code: Code, runs: list[str], runs_not: list[str]) -> None:
    assert [each for each in runs + runs_not if code.runs_on(each)] == runs
