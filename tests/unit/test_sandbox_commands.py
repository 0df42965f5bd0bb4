"""How an agent-server is started in an image, whatever the client's words for it are."""

from __future__ import annotations

from typing import Any

import pytest

from image_cache.bake import KEY
from kit.errors import InvalidFileError
from runner import agent_layer
from runner.sandboxes import commands
from runner.sandboxes.commands import Begin, Said

START = agent_layer.start("/slipworks-agent")
BINARY = "/usr/local/bin/openhands-agent-server"
SOURCE = "/agent-server/.venv/bin/python -m openhands.agent_server"
OLDER = (
    "/openhands/micromamba/bin/micromamba", "run", "-n", "openhands", "poetry", "run", "python", "-u", "-m",
    "openhands.runtime.action_execution_server", "60000", "--working-dir", "/workspace",
)  # fmt: skip

BAKED = Said(entrypoint=START, labels={KEY: "1"})
BARE = Said(entrypoint=("/bin/sh", "-c", 'exec "$@"', "--"), cmd=("sleep", "1000"))
OFFICIAL = Said(entrypoint=("/usr/bin/tini", "--", BINARY), user="10001")
FROM_SOURCE = Said(entrypoint=("tini", "--"), cmd=(*SOURCE.split(), "--port", "8000"))


@pytest.mark.parametrize("image", [BAKED, BARE, OFFICIAL, FROM_SOURCE])
@pytest.mark.parametrize(
    "command",
    [
        "", f"{BINARY} --port 60000", f"{SOURCE} --port 60000", f"{BINARY} --host 0.0.0.0 --port=60000",
        "/slipworks-agent/bin/openhands-agent-server --port 60000", "agent-server --port 60000",
        f"tini -- {BINARY} --port 60000", "--port 60000", OLDER,
    ],
)  # fmt: skip
def test_whatever_a_client_calls_it_the_images_own_server_is_started(
    image: Said, command: str | tuple[str, ...]
) -> None:
    """The executable is not there twice, and no port or host of the client's is left."""
    expected = {
        id(BAKED): Begin(entrypoint=START),
        id(BARE): Begin(command=START, mounted=True),
        id(OFFICIAL): Begin(entrypoint=OFFICIAL.entrypoint),
        id(FROM_SOURCE): Begin(entrypoint=("tini", "--"), command=FROM_SOURCE.cmd),
    }
    assert commands.begun(image, commands.words(command), START) == expected[id(image)]


@pytest.mark.parametrize(
    ("image", "whole"),
    [
        (BAKED, (*START, "--reload", "--import-modules", "a")),
        (BARE, (*START, "--reload", "--import-modules", "a")),
        (OFFICIAL, (*OFFICIAL.entrypoint, "--reload", "--import-modules", "a")),
        (FROM_SOURCE, ("tini", "--", *FROM_SOURCE.cmd, "--reload", "--import-modules", "a")),
    ],
)
def test_other_options_of_the_client_stay(image: Said, whole: tuple[str, ...]) -> None:
    words = commands.words(f"{BINARY} --reload --port 60000 --import-modules a")
    assert commands.begun(image, words, START).whole == whole


def test_a_command_of_another_kind_is_run_as_it_is() -> None:
    own = ("python", "-m", "my.server")
    assert commands.begun(BARE, own, START) == Begin(command=own, mounted=True)
    assert commands.begun(BAKED, own, START) == Begin(command=own)
    assert commands.begun(OFFICIAL, own, START) == Begin(command=own)


def test_what_was_built_upon_a_baked_one_has_the_layer_and_needs_no_mount() -> None:
    """Labels are inherited, an entrypoint may be replaced."""
    image = Said(entrypoint=("/own",), labels={KEY: "1"})
    assert commands.begun(image, (), START) == Begin(command=START)


@pytest.mark.parametrize(
    "image",
    [
        Said(), Said(cmd=("--help",)), Said(cmd=("sleep", "1")), Said(entrypoint=("tini", "--")),
        Said(cmd=OLDER), Said(entrypoint=("/bin/sh", "-c", f"exec {BINARY}")),
        Said(cmd=("python", "-m", "other")),
    ],
)  # fmt: skip
def test_an_image_that_starts_no_agent_server_by_itself_is_bare(image: Said) -> None:
    assert commands.kind(image) == "bare"


def test_a_command_is_one_line_or_words() -> None:
    assert commands.words(f"{BINARY} --extra-python-path '/a b'") == (BINARY, "--extra-python-path", "/a b")
    assert commands.words([BINARY, "--extra-python-path", "/a b"]) == (BINARY, "--extra-python-path", "/a b")
    assert commands.words(None) == commands.words("") == commands.words([]) == ()
    with pytest.raises(InvalidFileError, match=r"^command: .*No closing quotation"):
        commands.words(f"{BINARY} 'open")


def test_a_config_is_read_as_engines_and_registries_tell_it() -> None:
    """Null, or an empty text, stands for nothing; an old builder's entrypoint is one text."""
    told: dict[str, Any] = {"Entrypoint": None, "Cmd": ["a"], "User": "", "WorkingDir": "", "Labels": None}
    assert commands.said(told) == Said(cmd=("a",))
    told = {"Entrypoint": "/run", "User": "worker", "WorkingDir": "/testbed", "Labels": {"a": "b"}}
    assert commands.said(told) == Said(
        entrypoint=("/run",), user="worker", workdir="/testbed", labels={"a": "b"}
    )
