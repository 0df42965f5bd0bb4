"""Env files of people: what is read of them is what a shell would get, and the rest is said, never run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.errors import InvalidFileError
from runner import assignments
from runner.assignments import Assigned

SECRET_ENV = """\
# keys of the group; do not share
export HF_TOKEN=hf_abc123   # read only
export WANDB_API_KEY="0123 456"
DAYTONA_API_KEY='dtn_$not`expanded`'
export A=1 B="two words" ; C=3
QUOTED="a \\"b\\" \\$HOME \\\\ c"
EMPTY=
export SSH_KEY="-----BEGIN KEY-----
MIIEpAIB
-----END KEY-----
"
SPACED = dotenv
HASH=a#b
LONG=one\\
two
export DONE
"""


def taken(text: str) -> dict[str, str]:
    return {each.name: each.value for each in assignments.read(text, "f").taken}


def left(text: str) -> list[tuple[int, str | None, str]]:
    return [(each.line, each.name, each.why) for each in assignments.read(text, "f").left]


def test_a_file_as_people_have_it() -> None:
    assert taken(SECRET_ENV) == {
        "HF_TOKEN": "hf_abc123", "WANDB_API_KEY": "0123 456", "DAYTONA_API_KEY": "dtn_$not`expanded`",
        "A": "1", "B": "two words", "C": "3", "QUOTED": 'a "b" $HOME \\ c',
        "SSH_KEY": "-----BEGIN KEY-----\nMIIEpAIB\n-----END KEY-----\n", "SPACED": "dotenv", "HASH": "a#b",
        "LONG": "onetwo",
    }  # fmt: skip
    assert left(SECRET_ENV) == [(7, "EMPTY", "it is empty"), (16, "DONE", "it has no value here")]


def test_of_a_name_that_comes_twice_both_are_told_with_their_lines() -> None:
    assert assignments.read("A=1\nA=2\n", "f").taken == (Assigned("A", "1", 1), Assigned("A", "2", 2))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("export A=$HOME/x", "a $ that stands for something else"),
        ('export A="x${B}y"', "a $ that stands for something else"),
        ("A=$(cat ~/token | tr -d '\\n')", "a $ that stands for something else"),
        ('A="$(cat "$F")"', "a $ that stands for something else"),
        ("A=`cat token`", "a command in `…`"),
        ("A=$'s3cret'", "a quote of the form $'…'"),
        ("A=~/s3cret", "begins with ~"),
        ("A=(s3cret b)", "an array"),
        ("A=s3cret two", "blanks outside of quotes"),
        ("test -f x && export A=s3cret", "command is not run"),
        ("A=s3cret | cat", "command is not run"),
        ("export A=s3cret > log", "command is not run"),
    ],
)
def test_what_only_a_shell_could_tell_is_left_out_by_name_and_never_quoted(line: str, why: str) -> None:
    text = f"B=1\n{line}\nC=2\n"
    assert taken(text) == {"B": "1", "C": "2"}
    ((number, name, told),) = left(text)
    assert (number, name) == (2, "A") and why in told and "s3cret" not in told


def test_commands_are_not_run_and_only_known_ones_are_named(tmp_path: Path) -> None:
    text = (
        f"source {tmp_path}/x\ntouch {tmp_path}/ran\nMIIEpAIB/s3cret+line\neval A=$(touch {tmp_path}/ran)\n"
    )
    assert [why for *_, why in left(text)] == [
        "source is not run",
        *["a command is not run"] * 2,
        "eval is not run",
    ]
    assert not list(tmp_path.iterdir())


def test_what_stands_in_a_condition_or_a_function_is_left_out() -> None:
    text = """\
if [ -n "$X" ]; then
  export A=1
else export A=2; fi
for i in 1 2; do B=$i; done
key() {
  C=3
}
case $HOST in
  jr*) D=4 ;;
esac
E=5
"""
    assert taken(text) == {"E": "5"}
    assert {name for _, name, _ in left(text) if name} == {"A", "B", "C", "D"}


@pytest.mark.parametrize(
    ("text", "line"),
    [("A=1\nB='x\ny", 2), ('A="x', 1), ("A=1\ncat <<E\nB=2\nE\n", 2), ("A=$(cat x", 1), ("A=`x", 1)],
)
def test_what_has_no_end_is_an_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(InvalidFileError, match=rf"^f:{line}: "):
        assignments.read(text, "f")


@pytest.mark.parametrize("text", ["if true\nA=1\n", "A=1\nfi\n"])
def test_a_condition_without_its_end_is_an_error(text: str) -> None:
    with pytest.raises(InvalidFileError, match="no end"):
        assignments.read(text, "f")


def test_windows_line_ends_and_a_byte_order_mark() -> None:
    assert taken("\ufeffexport A=1\r\nB='x'\r\n") == {"A": "1", "B": "x"}


BASH = shutil.which("bash") or "bash"
WORDS = st.text(alphabet="ab'\"\\ $#=~\t{}é", max_size=14)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(["A", "B", "export A", "export B"]), WORDS), min_size=1, max_size=3)
)
def test_what_is_read_is_what_a_shell_gets(lines: list[tuple[str, str]]) -> None:
    """Held against bash: each name that is read has the value that bash gives it."""
    text = "".join(f"{name}={value}\n" for name, value in lines)
    try:
        found = assignments.read(text, "f")
    except InvalidFileError:
        return
    if any(each.why != "it is empty" for each in found.left):
        return
    script = f'{text}\nprintf "%s\\0" "$A" "$B"'
    done = subprocess.run([BASH, "--norc", "-c", script], env={"PATH": "/nowhere", "LC_ALL": "C.UTF-8"},
                          capture_output=True, check=False)  # fmt: skip
    got = dict(zip("AB", os.fsdecode(done.stdout).split("\0"), strict=False))
    values = {each.name: each.value for each in found.taken if each.name in got}
    emptied = {each.name for each in found.left}
    assert {name: got[name] for name in values if name not in emptied} == {
        name: value for name, value in values.items() if name not in emptied
    }, (text, done.stderr)
