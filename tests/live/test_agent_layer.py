"""The agent's layer on bases that share nothing with it: its server, its terminal, its git."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from containers.layer_tree import Layout, check
from definitions import layers
from image_cache import unpacking
from image_cache.oci import Artifact
from kit import process
from kit.nouns import Platform
from runner import building, images
from tests.live.needs import need
from tests.live.parts_agent import FOLDER, PATH, START, Rooted, Served, serving
from tests.live.parts_roots import FOREIGN, NATIVE

pytestmark = pytest.mark.live
ROOT, USER = "0:0", "12345:12345"
WithAgent = Callable[[str], Rooted]
PYTHON = f"{FOLDER}/python/bin/python3.13"
# What the server itself tells its children, in every installation of it.
UPSTREAM = {"AI_AGENT", "BROWSER_USE_LOGGING_LEVEL", "BROWSER_USE_SETUP_LOGGING", "OH_INTERNAL_SERVER_URL",
            "TMUX_TMPDIR"}  # fmt: skip
SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}
HOSTILE = {
    "LD_LIBRARY_PATH": "/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:/lib/aarch64-linux-gnu",
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/tmp",
}


def inside(root: Rooted, *argv: str, user: str = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": PATH, **env}
    return subprocess.run(
        root.entering(*argv, user=user), env=given, capture_output=True, text=True, check=False, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module", params=[("busybox", ROOT), ("busybox", USER), ("bullseye", USER)], ids=str)
def served(
    request: pytest.FixtureRequest, with_agent: WithAgent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rooted, Served]]:
    """A server without HOME, in a working folder that only root may write to, of a user whom the base does
    not know. The bullseye has a git and a python of its own, and variables that lead loaders astray."""
    name, user = request.param
    root = with_agent(name)
    hostile = HOSTILE if name == "bullseye" else {}
    if name == "bullseye":
        git = root.path / "usr/local/bin/git"
        git.write_text("#!/bin/sh\necho the base\\'s own git\n")
        git.chmod(0o755)
    log = tmp_path_factory.mktemp("log") / "server.log"
    with serving(root, log, user, PATH=PATH, **hostile) as server:
        load = os.getloadavg()[0]
        print(f"{name} as {user}: ready in {server.ready:.1f} s at load {load:.1f}")  # noqa: T201
        yield root, server


def test_runs_commands(served: tuple[Rooted, Served]) -> None:
    root, server = served
    assert server.ask("/ready") and server.ask("/server_info")
    code, out, err = server.run("echo hü; echo bad >&2; pwd; exit 3")
    assert (code, out, err) == (3, "hü\n/\n", "bad\n")
    assert server.run("pwd", cwd="/tmp") == (0, "/tmp\n", "")
    assert not list((root.path / "tmp").glob("core*"))


def test_commands_see_the_environment_that_was_given(served: tuple[Rooted, Served]) -> None:
    root, server = served
    found = server.environment()
    path = found.pop("PATH")
    assert path.startswith(f"{PATH}:{FOLDER}/programs")
    assert found.pop("HOME") == "/", "there was none"
    given = HOSTILE if (root.path / "usr/local/bin/git").exists() else {}
    assert {name: value for name, value in found.items() if name not in UPSTREAM | SHELL} == given


def test_commands_see_the_base_s_own_programs(served: tuple[Rooted, Served]) -> None:
    root, server = served
    if not (root.path / "usr/local/bin/git").exists():
        assert server.run("command -v git") == (0, f"{FOLDER}/programs/git\n", "")
        assert server.run("command -v python3 || command -v ldd") == (127, "", ""), "the layer lends none"
        return
    assert server.run("git --version")[1] == "the base's own git\n"
    where = server.run("for x in git python3 ldd bash env; do command -v $x; done")[1].split()
    assert where == [
        "/usr/local/bin/git",
        *(f"/usr/bin/{name}" for name in ("python3", "ldd", "bash", "env")),
    ]
    plain = inside(root, "ldd", "/bin/ls").stdout
    told = server.run("unset LD_LIBRARY_PATH; ldd /bin/ls")[1]
    names = [[line.split(" (")[0] for line in text.splitlines()] for text in (plain, told)]
    assert names[0] == names[1] and FOLDER not in told
    script = "unset PYTHONHOME PYTHONPATH; python3 -c 'import sys; print(sys.path, sys.executable)'"
    assert server.run(script)[1] == inside(root, "sh", "-c", script).stdout


def test_every_library_it_loads_is_its_own(served: tuple[Rooted, Served]) -> None:
    root, server = served
    # tini's child is the server.
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    maps = [Path(f"/proc/{child}/maps").read_text() for child in children]
    lines = [line for text in maps for line in text.splitlines() if ".so" in line]
    assert len(lines) > 100
    paths = {line.split(None, 5)[5] for line in lines}
    assert [
        path
        for path in paths
        if FOLDER[1:] not in path.removeprefix(str(root.path)) and "/layers/" not in path
    ] == []


# --- its terminal ---

TERMINAL = """
import os, sys
os.environ.pop("LC_CTYPE", None)  # the interpreter's own word, which the layer's entries take back
import slipworks_agent
os.environ["PATH"] = slipworks_agent.search(os.environ)
main = slipworks_agent.imported()
from openhands.tools.terminal.definition import TerminalAction
from openhands.tools.terminal.terminal.factory import create_terminal_session
session = create_terminal_session(work_dir="/tmp")
session.initialize()
told = [session.execute(TerminalAction(command=each)).text for each in sys.argv[1:]]
session.close()
print(repr((type(session.terminal).__name__, told)))
"""


@pytest.mark.parametrize(
    ("base", "kind", "own", "locale", "word", "user"),
    [
        ("busybox", "SubprocessTerminal", "", {}, "hü", ROOT),  # without /bin/bash a tmux would be of no use
        ("busybox", "SubprocessTerminal", "", {}, "hü", USER),
        # Where the base names no locale, its own bash echoes other letters as numbers: nobody adds one.
        ("bullseye", "TmuxTerminal", "", {}, "hu", USER),
        ("bullseye", "TmuxTerminal", "", {"LANG": "C.UTF-8"}, "hü", ROOT),
        # Too old for libtmux; and it says no other word.
        ("bullseye", "TmuxTerminal", "tmux 3.1c", {"LANG": "C.UTF-8"}, "hü", USER),
    ],
)
def test_the_agent_s_terminal(
    with_agent: WithAgent, base: str, kind: str, own: str, locale: dict[str, str], word: str, user: str
) -> None:
    root = with_agent(base)
    old = root.path / "usr/local/bin/tmux"
    if own:
        old.write_text(f"#!/bin/sh\necho {own}\n")
        old.chmod(0o755)
    try:
        commands = (f"echo {word} $((6*7))", "cd / && pwd", "env", "command -v tmux")
        told = inside(root, PYTHON, "-c", TERMINAL, *commands, user=user, HOME="/tmp", **locale)
    finally:
        old.unlink(missing_ok=True)
    assert told.returncode == 0, told.stdout + told.stderr
    terminal, (said, pwd, env, tmux) = ast.literal_eval(told.stdout.splitlines()[-1])
    assert (terminal, said, pwd) == (kind, f"{word} 42", "/")
    assert tmux == (f"{FOLDER}/tmux/tmux" if kind == "TmuxTerminal" else "")
    names = {line.partition("=")[0] for line in env.splitlines() if "=" in line}
    added = {"LOCPATH", "TERMINFO_DIRS", "TERMINFO", "LC_ALL", "LC_CTYPE", "LANG", *HOSTILE} - locale.keys()
    assert not names & added
    assert not names & {"LITELLM_LOCAL_MODEL_COST_MAP", "OPENHANDS_SUPPRESS_BANNER"}


# --- its git, its entrypoint ---


@pytest.mark.parametrize("user", [ROOT, USER])
def test_git_has_its_parts(with_agent: WithAgent, user: str) -> None:
    script = (
        "set -e; export PATH=$PATH:/slipworks-agent/programs HOME=$(mktemp -d); cd $HOME; git init -q a;"
        "cd a; git config user.name me; git config user.email m@e; echo x >x; git add x; git commit -qm one;"
        "cd ..; git clone -q a b 2>&1; git -C b submodule status; git -C b log --format=%s;"
        "ls a/.git/hooks | head -1; git -C b ls-remote https://127.0.0.1:9/x 2>&1 || true; rm -rf $HOME"
    )
    told = inside(with_agent("busybox"), "sh", "-c", script, user=user)
    assert told.returncode == 0, told.stdout + told.stderr
    one, hook, refused = told.stdout.splitlines()
    assert (one, hook) == ("one", "applypatch-msg.sample")
    assert refused.startswith("fatal: unable to access 'https://127.0.0.1:9/x/'") and "connect" in refused


def test_another_command_gets_what_the_engine_gave(with_agent: WithAgent) -> None:
    root = with_agent("busybox")
    given = {"PATH": PATH, "X": "1", "LC_CTYPE": "C"}
    told = inside(root, *START, "env", **given)
    assert dict(line.split("=", 1) for line in told.stdout.splitlines()) == given
    assert inside(root, *START, "sh", "-c", "exit 7").returncode == 7
    missing = inside(root, *START, "no-such-program")
    assert (missing.returncode, missing.stderr) == (
        127, "start: cannot run no-such-program: No such file or directory\n"
    )  # fmt: skip


def test_help_says_how_it_is_started(with_agent: WithAgent) -> None:
    for argv in (["openhands-agent-server"], ["/usr/local/bin/openhands-agent-server"], []):
        told = inside(with_agent("busybox"), *START, *argv, "--help", user=USER)
        assert told.returncode == 0 and told.stdout.startswith("usage: openhands-agent-server")


# --- what it is made of ---


def test_it_is_one_folder_and_says_nothing_of_this_machine(agent_layer: Artifact, agent_folder: Path) -> None:
    told = process.run(["tar", "-tvzf", agent_layer.path, "--numeric-owner"], what="list the layer")
    lines = [line.split(None, 5) for line in told.out.splitlines()]
    names = [line[5].split(" -> ")[0].rstrip("/") for line in lines]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} == {FOLDER[1:]}
    assert {line[1] for line in lines} == {"0/0"} and {line[3] for line in lines} == {"1980-01-01"}
    offered = sorted(
        name for name in names if name.startswith(("slipworks-agent/bin/", "slipworks-agent/tmux/"))
    )
    assert [name.rpartition("/")[2] for name in offered] == [
        "openhands-agent-server",
        "start",
        "tini",
        "tmux",
    ]
    assert not [name for name in names if name.endswith(("/RECORD", "/direct_url.json", "/uv_cache.json"))]
    assert any(name.endswith("licenses/git") for name in names)
    here = [str(Path(__file__).parents[2]), str(images.store().root.parent), str(Path.home() / ".cache/uv")]
    argv = ["grep", "-rlF", *(word for each in here for word in ("-e", each)), agent_folder]
    assert process.run(argv, what="look for this machine's paths", check=False).out == ""


def test_every_source_is_compiled(agent_folder: Path) -> None:
    sources = {path for path in agent_folder.rglob("*.py") if "libexec" not in path.parts}
    bare = [
        path for path in sources
        if not list((path.parent / "__pycache__").glob(f"{path.stem}.cpython-3*.pyc"))
    ]  # fmt: skip
    # Templates, and syntax of a language that is gone.
    assert len(bare) < 30 < len(sources) / 100


def test_foreign_layer_without_emulation(tmp_path: Path) -> None:
    handler = Path(f"/proc/sys/fs/binfmt_misc/qemu-{FOREIGN.machine}")
    need(not handler.exists(), f"an emulator of {FOREIGN} is registered, so that a build could use it")
    spec = layers.load("agent-server", "debian")
    built = building.layer_artifact(spec, FOREIGN, images.store())
    unpacking.unpack_layer(images.store(), built.descriptor, tmp_path / "stage")
    layout = Layout(spec, tmp_path / "stage")
    check(layout, FOREIGN)
    with pytest.raises(Exception, match=f"expected {NATIVE.machine}"):
        check(layout, Platform(NATIVE.arch))
    assert built.path != building.layer_artifact(spec, NATIVE, images.store()).path
