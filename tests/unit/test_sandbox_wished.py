"""Whatever a client says, no word of an engine becomes an option or a path of the host by it."""

from __future__ import annotations

import csv
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs
from pydantic import ValidationError

from kit.errors import UsageError
from runner.sandboxes import apptainer_words, by_hand, wished
from runner.sandboxes.backends import container_words
from runner.sandboxes.by_hand import Asked
from runner.sandboxes.models import StartRequest
from runner.sandboxes.nouns import Ready, Start, Wish

ID = "0123456789abcdef"
START = Start(
    id=ID, name=f"slipworks-{ID}", state="c0ffee123456", port=20001, folder="/state/sandbox",
    image=Ready(reference="an/image:1", command=("serve",)),
)  # fmt: skip
NASTY = ("/", "..", ".", ":", ",", "=", '"', "'", "-", "\n", "\r", "\x00", "\x7f", "\x85", " ", "etc", "é",
         "$(id)", "--privileged", "source=/etc", "rw")  # fmt: skip
HOSTILE = st.lists(st.sampled_from(NASTY), max_size=8).map("".join) | st.text(max_size=12)
FOLDERS = HOSTILE | HOSTILE.map(lambda text: f"/{text}")
BAD = ("/etc:/../nosuch", "/etc:/x", "etc", "../etc", "/a/../b", "/..", "/a/..", "/a\nb", "/a\n", "/a\x00",
       "/a\x1b[2J", "--privileged", "-v=/:/host", "/a\x85", ":")  # fmt: skip
GOOD = {"/": "/", "/workspace/project/": "/workspace/project", "//x": "/x", "/a/./b": "/a/b",
        "/.hid": "/.hid", "/...": "/...", "/..a": "/..a", "/a..": "/a..", "/work here": "/work here",
        "/a,b": "/a,b", "/-x": "/-x", "/é": "/é", '/a"b': '/a"b'}  # fmt: skip


def accepted(**more: Any) -> Wish | None:
    """What the API makes of a request; None: it is refused (422)."""
    try:
        return StartRequest.model_validate({"image": "an/image:1", "session_id": "s", **more}).wish()
    except ValidationError:
        return None


def words(start: Start) -> tuple[list[str], list[str]]:
    """Of podman and docker, and of apptainer; each with a folder that the image lacks."""
    found = container_words.run(start, container_words.Where(folder=True), ())
    return found, apptainer_words.argv(start, apptainer_words.Where(folder=True))


@pytest.mark.parametrize("folder", BAD)
def test_a_folder_of_the_host_is_refused_at_both_ends(folder: str) -> None:
    assert accepted(working_dir=folder) is None
    assert accepted(environment={"HOME": folder}) is None
    with pytest.raises(UsageError, match="working_dir"):
        by_hand.started(Asked(wish=Wish(session="", image="i", workdir=folder)))
    with pytest.raises(UsageError, match="HOME"):
        by_hand.plan(Asked(wish=Wish(session="", image="i", env={"HOME": folder})))
    start = structs.replace(START, workdir=folder)
    with pytest.raises(UsageError):
        container_words.run(start, container_words.Where(folder=True), ())
    for changed in (start, structs.replace(START, secret={"HOME": folder})):
        with pytest.raises(UsageError):
            apptainer_words.argv(changed, apptainer_words.Where())


@pytest.mark.parametrize(("folder", "found"), GOOD.items())
def test_folders_that_a_sandbox_may_begin_in(folder: str, found: str) -> None:
    wish = accepted(working_dir=folder, environment={"HOME": folder})
    assert wish and wish.workdir == folder
    wished.demand(wish)
    ours, theirs = words(structs.replace(START, workdir=wish.workdir, secret=wish.env))
    assert f"--workdir={found}" in ours
    assert f"--pwd={found}" in theirs and f"--home={found}" in theirs


def test_no_folder_is_the_images() -> None:
    wish = accepted(working_dir="", environment={"HOME": ""})
    assert wish and wish.workdir is None
    wished.demand(wish)


@given(FOLDERS)
@example("/etc:/../nosuch")
def test_what_is_accepted_is_one_path_inside(folder: str) -> None:
    """Both ends agree, and the words hold it as one path that leads nowhere up."""
    wish = accepted(working_dir=folder)
    if wish is None or not wish.workdir:
        with pytest.raises(UsageError):
            container_words.run(structs.replace(START, workdir=folder or ":"), container_words.Where(), ())
        return
    ours, theirs = words(structs.replace(START, workdir=wish.workdir))
    where = wished.folder(wish.workdir)
    assert where.startswith("/") and ".." not in PurePosixPath(where).parts and ":" not in where
    assert not [each for each in ours if each.startswith(("--volume", "-v"))]
    (mount,) = [each.removeprefix("--mount=") for each in ours if each.startswith("--mount=")]
    assert next(csv.reader([mount])) == ["type=volume", f"destination={where}"]
    bound = theirs[[at for at, each in enumerate(theirs) if each == "--mount"][-1] + 1]
    assert next(csv.reader([bound])) == ["type=bind", "source=/state/sandbox/workdir", f"target={where}"]
    plain = words(structs.replace(START, workdir="/plain"))
    assert [len(ours), len(theirs)] == [len(each) for each in plain], "no word more"


@given(st.dictionaries(HOSTILE | st.sampled_from(["HOME", "A", "_b"]), HOSTILE, max_size=3))
def test_variables_become_lines_of_a_file_and_no_words(env: dict[str, str]) -> None:
    wish = accepted(environment=env)
    if wish is None:
        return
    wished.demand(wish)
    start = structs.replace(START, secret=wish.env)

    def text(values: dict[str, str]) -> str:
        return "".join(f"{name}={value}\n" for name, value in values.items())

    lines = container_words.environment(start, text).split("\n")[:-1]
    assert dict(line.partition("=")[::2] for line in lines) == env and len(lines) == len(env)
    (none, plain), (ours, theirs) = words(START), words(start)
    assert ours == none
    home = [f"--home={wished.folder(env['HOME'])}"] if env.get("HOME") else []
    assert [each for each in theirs if each not in plain] == home


@given(HOSTILE)
def test_an_image_is_no_option(image: str) -> None:
    wish = accepted(image=image)
    assert wish is None or not (image.startswith("-") or "\n" in image or "\x00" in image)


def test_an_image_by_hand_is_no_option() -> None:
    with pytest.raises(UsageError, match="image"):
        by_hand.plan(Asked(wish=Wish(session="", image="--privileged")))


@given(st.lists(HOSTILE, max_size=4))
def test_words_of_a_command_stand_behind_the_image(command: list[str]) -> None:
    """There no engine looks for options."""
    image = structs.replace(START.image, command=tuple(command))
    start = structs.replace(START, image=image)
    found = container_words.image(start, container_words.Where())
    assert found[: 1 + len(command)] == ["an/image:1", *command]
    theirs = apptainer_words.argv(start, apptainer_words.Where())
    at = theirs.index("an/image:1")
    assert theirs[at + 1 : at + 1 + len(command)] == command
    assert theirs[:at] == words_before(START)


def words_before(start: Start) -> list[str]:
    found = apptainer_words.argv(start, apptainer_words.Where())
    return found[: found.index("an/image:1")]


@pytest.mark.parametrize("value", ["a\nb", "a\r", "\n", "a\r\nb"])
def test_a_line_break_in_a_variable_is_refused_whatever_the_engine(value: str) -> None:
    """An env file of podman or docker cannot carry it: no sandbox of theirs ever started with one."""
    assert accepted(environment={"KEY": value}) is None
    for ask in (by_hand.started, by_hand.plan):
        with pytest.raises(UsageError, match="KEY: a line break") as told:
            ask(Asked(wish=Wish(session="", image="i", env={"KEY": value})))
        assert value not in told.value.message
    kept = accepted(environment={"KEY": r"a\nb"})
    assert kept and kept.env == {"KEY": r"a\nb"}
