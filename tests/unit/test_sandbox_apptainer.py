"""The words by which apptainer starts a sandbox: what they show of the host, and what they never hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs

from kit.errors import UsageError
from runner.sandboxes import apptainer_words as words
from runner.sandboxes.apptainer_words import Where
from runner.sandboxes.nouns import KEY, Ready, Start

ID = "0123456789abcdef"
START = Start(
    id=ID, name=f"slipworks-{ID}", state="c0ffee123456",
    image=Ready(
        reference="/store/it's a.sif", mount=("--bind", "/l.sqfs:/slipworks-agent:image-src=/"),
        command=("/slipworks-agent/bin/tini", "--", "/slipworks-agent/bin/start"), workdir="/testbed",
    ),
    secret={KEY: "not-a-secret", "MODEL_KEY": "it's $HOME\nand more"}, port=20123, folder="/state/a, b:c",
)  # fmt: skip


def argv(**changed: Any) -> list[str]:
    return words.argv(structs.replace(START, **changed), Where())


def test_no_value_of_a_variable_stands_in_the_command_line() -> None:
    start = structs.replace(START, secret={**START.secret, "SEEN": "a value"})
    line = "\n".join(words.argv(start, Where()))
    assert not [each for each in ("not-a-secret", "and more", "a value") if each in line]
    text = words.env_text(start)
    assert f"{KEY}=not-a-secret\n" in text and "SEEN='a value'\n" in text
    assert """MODEL_KEY='it'"'"'s $HOME\nand more'\n""" in text


def test_nothing_of_the_host_is_seen_but_what_is_named() -> None:
    found = argv()
    assert {"--containall", "--no-home", "--userns", "--fakeroot"} <= set(found)
    assert "--no-mount=home,tmp,cwd,bind-paths,hostfs" in found
    binds = [found[at + 1] for at, each in enumerate(found) if each in ("--mount", "--bind")]
    assert binds == [
        'type=bind,"source=/state/a, b:c/shm",target=/dev/shm',
        "type=bind,source=/etc/hosts,target=/etc/hosts,ro",
        "/l.sqfs:/slipworks-agent:image-src=/",
    ]


def test_the_image_and_its_command_are_the_last_words_with_our_address() -> None:
    server = ["/slipworks-agent/bin/tini", "--", "/slipworks-agent/bin/start"]
    assert argv()[-8:] == ["/store/it's a.sif", *server, "--host", "127.0.0.1", "--port", "20123"]
    assert argv(address="10.1.2.3")[-3] == "10.1.2.3"
    assert argv(address="node7")[-3] == "0.0.0.0", "a name may be of several addresses"


@pytest.mark.parametrize(
    ("wished", "image", "found"),
    [("/srv/space/", "/testbed", "/srv/space"), (None, "/testbed", "/testbed"), (None, None, "/"),
     (None, "../../etc", "/etc"), ("//x", None, "/x")],
)  # fmt: skip
def test_the_folder_to_start_in(wished: str | None, image: str | None, found: str) -> None:
    start = structs.replace(START, workdir=wished, image=structs.replace(START.image, workdir=image))
    assert f"--pwd={found}" in words.argv(start, Where())
    bound = [each for each in words.argv(start, Where(folder=True)) if each.endswith(f"target={found}")]
    assert bound == [f'type=bind,"source=/state/a, b:c/workdir",target={found}']


def test_home_is_passed_as_apptainer_takes_it() -> None:
    start = structs.replace(START, secret={"HOME": "/home/agent"})
    assert "--home=/home/agent" in words.argv(start, Where())
    assert "HOME=" not in words.env_text(start).replace("$HOME", "")


def test_a_variable_that_apptainer_cannot_pass_is_told() -> None:
    with pytest.raises(UsageError, match="a-b"):
        words.env_text(structs.replace(START, secret={"a-b": "1"}))


def test_the_command_has_nothing_of_the_servers_environment() -> None:
    ours = {"PATH": "/opt/apptainer/bin", "APPTAINER_BIND": "/home", "APPTAINERENV_TOKEN": "t",
            "HF_TOKEN": "t", "HOME": "/home/me"}  # fmt: skip
    found = words.own_environment(START, ours)
    assert found["PATH"] == "/opt/apptainer/bin" and "/home/me" not in found.values()
    assert not {"APPTAINER_BIND", "APPTAINERENV_TOKEN", "HF_TOKEN"} & set(found)


def test_a_sandbox_is_known_by_its_mounts() -> None:
    line = (
        f"101 93 254:0 /state/{words.overlay(START.state, ID)} /session/overlay-images/0 rw - ext4 /dev/vda"
    )
    found = words.MARK.search(line)
    assert found and found.groups() == (START.state, ID)
    assert not words.MARK.search(f"1 2 3:4 /x/{words.overlay(START.state, ID)}/upper /x rw - ext4 /dev/vda")


def test_the_filter_refuses_mounts_and_namespaces_and_lets_threads_be() -> None:
    found = json.loads(words.profile())
    assert found["defaultAction"] == "SCMP_ACT_ALLOW"
    actions = {name: each["action"] for each in found["syscalls"] for name in each["names"]}
    assert actions["mount"] == actions["unshare"] == actions["setns"] == "SCMP_ACT_ERRNO"
    assert actions["clone3"] == "SCMP_ACT_TRACE"
    flags = [each["args"][0]["value"] for each in found["syscalls"] if each["names"] == ["clone"]]
    assert 0x10000000 in flags and not any(flag & 0x10F00 for flag in flags), "what threads are made with"
    assert not any("seccomp" in each for each in words.argv(START, Where(filter=False)))
