"""The agent's layer without a build: what is taken of packages, what pins choose, how its server starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from containers import debs, layer, layer_files
from containers.layer_tree import Layout, _leave_out
from definitions import layers
from kit.errors import BuildError, UnsupportedError
from kit.nouns import LayerSpec, Platform

FOLDER = "/slipworks-agent"
FOUR = ("openhands-agent-server", "openhands-sdk", "openhands-tools", "openhands-workspace")
UTF8 = {"PATH": "/usr/bin", "LANG": "de_DE.utf8"}


@pytest.fixture
def spec() -> LayerSpec:
    return layers.load("agent-server", "debian")


@pytest.fixture(scope="module")
def agent() -> ModuleType:
    """The module that starts the server, as it lies in the layer."""
    text = layers.load("agent-server", "debian").texts["python/site/slipworks_agent/__init__.py"]
    module = ModuleType("slipworks_agent")
    exec(compile(text.replace("{folder}", FOLDER), "slipworks_agent", "exec"), module.__dict__)
    return module


# --- what pins choose ---


@pytest.mark.parametrize("distribution", ["debian", "ubuntu"])
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_openhands_comes_in_one_version(distribution: str, arch: str) -> None:
    lock = layers.load("agent-server", distribution).locks[arch]
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    assert len({versions[name] for name in FOUR}) == 1
    assert "://" not in lock
    asked = (layers.folder("agent-server") / "requirements.in").read_text()
    assert sorted(re.findall(r"^([\w-]+)==(\S+)$", asked, re.MULTILINE)) == sorted(
        (name, versions[name]) for name in FOUR
    )


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_every_package_is_pinned(spec: LayerSpec, arch: str) -> None:
    assert sorted(debs.read_pins(spec.pins[arch], arch)) == sorted(spec.packages)
    assert spec.source == ("func-timeout",) and "setuptools==" in spec.tools


def test_it_is_made_of_packages_only() -> None:
    with pytest.raises(UnsupportedError, match="layer agent-server is made of a distribution's packages"):
        layers.load("agent-server", None)


# --- what is taken of packages ---


def layout(tmp_path: Path, spec: LayerSpec, **given: object) -> Layout:
    return Layout(msgspec.structs.replace(spec, **given), tmp_path / "the 'stage'")


def test_files_and_texts_lie_where_the_spec_says(tmp_path: Path, spec: LayerSpec) -> None:
    root = tmp_path / "root"
    for name in ("usr/bin/tool", "usr/lib/core/own", "usr/share/data"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "usr/bin/tool").chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    links = {
        "tool": "../../bin/tool",
        "alias": "tool",
        "same": "own",
        "gone": "/nowhere",
        "data": "/usr/share/data",
    }
    for name, to in links.items():
        (root / "usr/lib/core" / name).symlink_to(to)
    at = layout(
        tmp_path, spec, files={"libexec/x": "/bin/tool", "libexec/core": "/usr/lib/core"},
        texts={"p/x": "#!{folder}/sh\nexec {folder}/libexec/x\n", "share/x": "{folder} {other}"},
    )  # fmt: skip
    layer_files.put(at, root)
    assert (at.top / "p").is_dir() and not (at.top / "p/x").exists()
    assert layer_files.write(at) == [at.top / "p/x", at.top / "share/x"]
    core = at.top / "libexec/core"
    assert (at.top / "libexec/x").read_text() == (core / "tool").read_text() == "usr/bin/tool"
    assert not (core / "tool").is_symlink() and (core / "tool").stat().st_mode & 0o111
    assert {path.name: str(path.readlink()) for path in core.iterdir() if path.is_symlink()} == {
        "alias": "tool", "same": "own"
    }  # fmt: skip
    assert (core / "data").read_text() == "usr/share/data" and not (core / "gone").exists()
    assert (at.top / "p/x").read_text() == f"#!{FOLDER}/sh\nexec {FOLDER}/libexec/x\n"
    assert (at.top / "share/x").read_text() == f"{FOLDER} {{other}}"
    assert [oct((at.top / name).stat().st_mode)[-3:] for name in ("p/x", "share/x")] == ["755", "644"]


def test_a_program_that_no_package_has(tmp_path: Path, spec: LayerSpec) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(BuildError, match="nothing that layer agent-server is made of holds /usr/bin/tini"):
        layer_files.put(layout(tmp_path, spec), tmp_path / "root")


def test_what_is_left_out(tmp_path: Path, spec: LayerSpec) -> None:
    at = layout(tmp_path, spec, leave_out=("site/a", "/libexec/a", "/share/*.txt"))
    for name in ("python/site/a/b", "python/site/c", "libexec/a", "libexec/b", "share/x.txt", "share/x"):
        (at.top / name).parent.mkdir(parents=True, exist_ok=True)
        (at.top / name).write_text("")
    _leave_out(at)
    left = sorted(str(path.relative_to(at.top)) for path in at.top.rglob("*") if path.is_file())
    assert left == ["libexec/b", "python/site/c", "share/x"]


def test_two_packages_that_claim_one_file(tmp_path: Path) -> None:
    for name, rows in {
        "one-1": "x.py,sha256=a,1\nsame.py,sha256=s,1\n",
        "two-2": "same.py,sha256=s,1\n",
    }.items():
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info/RECORD").write_text(rows)
    layer_files.refuse_contested(tmp_path)
    with (tmp_path / "two-2.dist-info/RECORD").open("a") as record:
        record.write('x.py,sha256=b,1\n"y,z.py",,\n')
    with pytest.raises(BuildError, match=r"one-1 and two-2 each install another x\.py"):
        layer_files.refuse_contested(tmp_path)


def test_scripts_are_no_part_of_the_body(spec: LayerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    amd64 = Platform("amd64")
    key, body = layer.key(spec, amd64), layer.body_key(spec, amd64)
    texts = {**spec.texts, "programs/git": "another"}
    changed = msgspec.structs.replace(spec, texts=texts)
    assert layer.key(changed, amd64) != key and layer.body_key(changed, amd64) == body
    more = msgspec.structs.replace(spec, texts={**texts, "new/x": ""})
    assert layer.body_key(more, amd64) != body, "the body holds the folder"
    for changed in (
        msgspec.structs.replace(spec, files={**spec.files, "bin/tini": "/usr/bin/tini"}),
        msgspec.structs.replace(spec, source=()),
        msgspec.structs.replace(spec, tools="another builder"),
    ):
        assert layer.body_key(changed, amd64) != body
    monkeypatch.setattr(layer, "version", lambda: "9.9")
    assert layer.key(spec, amd64) == key, "nothing of this kit is in it"


# --- how the server is started ---


def tmux(folder: Path, says: str) -> Path:
    folder.mkdir()
    (folder / "tmux").write_text(f"#!/bin/sh\n{says}\n")
    (folder / "tmux").chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("says", "locale", "first"),
    [
        ("echo tmux 3.5a", {"LANG": "C.UTF-8"}, False),
        ("echo tmux 3.2a", {"LC_ALL": "en_US.utf8", "LANG": "C"}, False),
        ("echo tmux next-3.6", {"LC_CTYPE": "C.UTF-8"}, False),
        ("echo tmux 3.1c", {"LANG": "C.UTF-8"}, True),
        ("echo tmux 2.9", {"LANG": "C.UTF-8"}, True),
        ("echo tmux 3.5a", {}, True),
        ("echo tmux 3.5a", {"LC_ALL": "C", "LANG": "C.UTF-8"}, True),
        ("exit 1", {"LANG": "C.UTF-8"}, True),
        ("echo hello", {"LANG": "C.UTF-8"}, True),
    ],
)
def test_the_base_s_own_tmux_is_used_where_the_server_can(
    tmp_path: Path, agent: ModuleType, says: str, locale: dict[str, str], first: bool
) -> None:
    path = str(tmux(tmp_path / "the 'base'", says))
    found = agent.search({"PATH": path, **locale}, bash="/bin/sh")
    behind, ours = f"{path}:{FOLDER}/programs", f"{FOLDER}/tmux"
    assert found == (f"{ours}:{behind}" if first else f"{behind}:{ours}")


def test_programs_of_the_layer_come_last(tmp_path: Path, agent: ModuleType) -> None:
    assert agent.search({"PATH": "/nothing"}, "/bin/sh") == f"/nothing:{FOLDER}/programs:{FOLDER}/tmux"
    for none in ({}, {"PATH": ""}):
        assert agent.search(none, "/nowhere/bash") == f"{agent.SYSTEM_PATH}:{FOLDER}/programs"
    # Without /bin/bash, which the server would run in it, a tmux is of no use, whosever it is.
    own = str(tmux(tmp_path / "own", "echo tmux 3.1"))
    assert agent.search({"PATH": own}, "/nowhere/bash") == f"{own}:{FOLDER}/programs"


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], []),
        (["--port", "60000"], ["--port", "60000"]),
        (["openhands-agent-server", "--port", "1"], ["--port", "1"]),
        (["/usr/local/bin/openhands-agent-server", "--port", "1"], ["--port", "1"]),
        ([f"{FOLDER}/bin/openhands-agent-server"], []),
    ],
)
def test_start_starts_the_server(
    agent: ModuleType, monkeypatch: pytest.MonkeyPatch, given: list[str], options: list[str]
) -> None:
    monkeypatch.setattr(agent, "server", lambda: 7)
    monkeypatch.setattr(sys, "argv", ["start", *given])
    assert agent.start() == 7
    assert sys.argv == ["openhands-agent-server", *options]


def started(spec: LayerSpec, tmp_path: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What `start` does with a command that is not the server's."""
    module = tmp_path / "slipworks_agent/__init__.py"
    module.parent.mkdir(exist_ok=True)
    module.write_text(spec.texts["python/site/slipworks_agent/__init__.py"].replace("{folder}", FOLDER))
    argv = [sys.executable, "-c", "import slipworks_agent as s; s.start()", *command]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), **env}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)


def test_start_gives_way_to_another_command(spec: LayerSpec, tmp_path: Path) -> None:
    told = started(
        spec, tmp_path, "sh", "-c", "echo $1 $X; grep SigIgn /proc/self/status; exit 5", "sh", "-a"
    )
    assert told.returncode == 5
    said, ignored = told.stdout.splitlines()
    assert said == "-a"
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    assert f"{FOLDER}" not in started(spec, tmp_path, "env").stdout


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-command", 127), ("./slipworks_agent/__init__.py", 126)]
)
def test_start_and_a_command_that_cannot_be(spec: LayerSpec, tmp_path: Path, command: str, code: int) -> None:
    told = started(spec, tmp_path, command)
    assert told.returncode == code
    assert told.stderr.startswith(f"start: cannot run {command}: ")
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["programs/bash", "programs/git", "tmux/tmux"])
def test_scripts_are_plain_shell(spec: LayerSpec, name: str) -> None:
    text = spec.texts[name]
    assert text.startswith("#!{folder}/libexec/sh\n") and "{" not in re.sub(r"\{folder\}|\$\{\w+", "", text)
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
