"""The command line: two lines for every failure, its own exit code, never a traceback."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from containers import engine
from image_cache.store import Store
from kit.errors import EXIT_CODES, UnsupportedError
from kit.nouns import FORMATS, Platform
from runner import cli, images


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str]]:
    try:
        code = cli.main(argv)
    except SystemExit as ended:  # argparse's own, for --help
        code = int(str(ended.code or 0))
    told = capsys.readouterr()
    assert told.out == ""
    return code, told.err.splitlines()


@pytest.mark.parametrize(
    ("argv", "code", "error", "hint"),
    [
        (["imag"], "UsageError", "unknown command 'imag'", "runner image --help"),
        (["config", "--jsn"], "UsageError", "unrecognized argument: --jsn", "runner config --help"),
        (["config", "word"], "UsageError", "unrecognized argument: word", "runner config --help"),
        (["image", "bild"], "UsageError", "did you mean 'build'?", "runner image --help"),
        (["image", "build"], "UsageError", "required: arch", "runner image build --help"),
        (["image", "build", "cpu", "--format", "oic"], "UsageError", "did you mean 'oci'?", "--help"),
        (["image", "key", "gh20"], "UnknownNameError", "unknown arch 'gh20'", "did you mean 'gh200'?"),
        (["image", "key", "cpu", "--line", "cu31"], "UnknownNameError", "unknown line 'cu31'", "'cu13'"),
        (["image", "key", "cpu", "--base", "bootstrp"], "UnknownNameError", "unknown base", "'bootstrap'"),
        (["image", "key", "cpu", "--platform", "linux/arm"], "UnknownNameError", "platform", "'linux/arm64'"),
        (["image", "key", "h100", "--platform", "arm64"], "UnsupportedError", "linux/amd64", "PLATFORM="),
        (["image", "key", "cpu", "--line", "cu13"], "UnsupportedError", "needs a GPU", "LINE=cpu"),
        (
            ["image", "key", "h100", "--line", "cu12", "--base", "bootstrap"],
            "UnsupportedError",
            "Python 3.12",
            "BASE=python312",
        ),
        (["image", "key", "gh200", "--line", "cu12"], "UnpinnedError", "CPU build", "sha256"),
        (["image", "build", "cpu", "--engine", "podmen"], "UnknownNameError", "engine", "'podman'"),
        (["submit", "nowhere.yaml"], "InvalidFileError", "nowhere.yaml", "runner submit"),
        (
            ["submit", "examples/hello-grpo/job.yaml", "--cluster", "locl"],
            "UnknownNameError",
            "cluster 'locl'",
            "'local'",
        ),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: str, error: str, hint: str
) -> None:
    found, lines = failure(capsys, *argv)
    assert found == EXIT_CODES[code], lines
    lines = [line for line in lines if not line.startswith("note: ")]
    assert len(lines) == 2, lines
    assert lines[0].startswith("error: ") and error in lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1]


def test_overrides_stand_anywhere() -> None:
    args = cli.parsed(["submit", "a=1", "j.yaml", "--cluster", "local", "b=2", "--dry-run", "c=3"])
    assert {str(args.job), *args.override} == {"a=1", "j.yaml", "b=2", "c=3"}
    args = cli.parsed(["submit", "j.yaml", "--cluster", "local", "b=2"])
    assert (str(args.job), args.override) == ("j.yaml", ["b=2"])


def test_a_disk_that_refuses_is_told_in_two_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWORKS_CACHE", "/proc/nowhere")
    code, lines = failure(capsys, "image", "show", "x")
    assert code != 0 and lines[0].startswith("error: ") and len(lines) <= 2


@pytest.mark.parametrize("name", ["arch", "ACH", "FROMAT"])
def test_make_refuses_a_misspelt_variable(name: str) -> None:
    """It would build the default image, and say nothing."""
    root = Path(cli.__file__).parents[1]
    argv = ["make", "-C", str(root), "-n", "image", f"{name}=gh200"]
    told = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert told.returncode == 2 and f"unknown variable {name}: expected one of ARCH" in told.stderr
    right = subprocess.run([*argv[:-1], "ARCH=gh200"], capture_output=True, text=True, check=False)
    assert right.returncode == 0


def test_formats_are_those_of_the_noun() -> None:
    """The command writes them out, because importing them is slow."""
    build = cli.parser(["image"])._subparsers._group_actions[0].choices["image"]  # type: ignore[union-attr]
    verbs = build._subparsers._group_actions[0].choices
    for verb in ("build", "show"):
        action = next(each for each in verbs[verb]._actions if "--format" in each.option_strings)
        assert tuple(action.choices) == FORMATS


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's store, with one image that is there in both formats."""
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path))
    store = images.store()
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    put = {"key": "a" * 64, "name": "it-is", "platform": Platform.host()}
    store.put_root(tmp_path / "root.tar", **put)
    (tmp_path / "x.sif").write_bytes(b"sif")
    store.put_sif(tmp_path / "x.sif", **put)
    return store


def test_list_and_show(shop: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["image", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["format"] for each in listed] == ["oci", "sif"]
    assert cli.main(["image", "show", "it-is", "--format", "oci", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["image"]["name"] == "it-is" and len(shown["record"]["layers"]) == 1
    code, lines = failure(capsys, "image", "show", "it-i")
    assert code == EXIT_CODES["NotFoundError"]
    assert lines == [
        "error: 'it-i' names 2 images in the store: it-is (oci), it-is (sif)",
        "hint: runner image show it-i --format oci",
    ]


@pytest.mark.parametrize("push", ["", "Bad Ref", "host/name@sha256:" + "0" * 64])
def test_a_bad_push_is_refused_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, push: str
) -> None:
    monkeypatch.setattr(engine, "detect", lambda *_, **__: engine.get("buildah"))
    code, lines = failure(capsys, "image", "build", "cpu", "--push", push)
    lines = [line for line in lines if not line.startswith("note: ")]
    assert code == EXIT_CODES["InvalidFileError"] and len(lines) <= 2, lines


def test_an_engine_that_only_keeps_images_runs_no_job() -> None:
    with pytest.raises(UnsupportedError, match="buildah keeps images and runs none"):
        images.check("buildah", None, None, to_run=True)


@pytest.mark.parametrize("name", ["cache", "runs"])
def test_folders_are_checked_before_anything_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "job.yaml").write_text("name: j\narch: cpu\nrun: ['true']\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWORKS_CACHE", f"{tmp_path}/cache")
    monkeypatch.setenv("SLIPWORKS_RUNS", f"{tmp_path}/runs")
    monkeypatch.setenv(f"SLIPWORKS_{name.upper()}", f"{tmp_path}/file")
    monkeypatch.setattr(images, "make", lambda *_, **__: pytest.fail("something was made"))
    assert cli.main(["submit", str(tmp_path / "job.yaml"), "--cluster", "local"]) == 11
    said = capsys.readouterr().err
    assert f"the setting {name} " in said and said.endswith("hint: runner config\n")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "job.yaml"]


def test_a_cache_that_is_a_file_is_no_empty_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SLIPWORKS_CACHE", f"{tmp_path}/file")
    assert cli.main(["image", "list"]) == 11
    assert "the setting cache is " in capsys.readouterr().err


def test_term_unwinds(tmp_path: Path) -> None:
    """A command that is ended still takes away what it made for a time."""
    script = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "from kit import files\n"
        "from runner import cli\n"
        "class Command:\n"
        "    def run(args):\n"
        "        with files.beside(Path(sys.argv[1])) as temporary:\n"
        "            temporary.mkdir()\n"
        "            print('made', flush=True)\n"
        "            time.sleep(60)\n"
        "import argparse\n"
        "cli.parsed = lambda argv: argparse.Namespace(command=Command)\n"
        "sys.exit(cli.main([]))\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "it")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stdout.readline() == "made\n"
        child.terminate()
        assert child.wait(30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_render_check_fails_on_drift(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from definitions import render

    assert failure(capsys, "image", "render", "--check") == (0, [])
    copied = tmp_path / "rendered"
    shutil.copytree(render.RENDERED, copied)
    with (copied / "gh200/Containerfile").open("a") as file:
        file.write("# by hand\n")
    honest = render.drift
    monkeypatch.setattr(render, "drift", lambda: honest(copied))
    code, lines = failure(capsys, "image", "render", "--check")
    assert code == EXIT_CODES["DriftError"]
    assert "gh200/Containerfile" in lines[0] and lines[1] == "hint: make render"


def test_msgspec_does_without_typing_extensions_and_others_still_get_it() -> None:
    """Whose import costs more than msgspec's own."""
    probe = (
        "import sys; from runner import cli; cli._import_msgspec(); from kit import settings\n"
        "assert 'typing_extensions' not in sys.modules\n"
        "import typing_extensions; assert typing_extensions.__file__"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_a_connection_that_hangs_up_does_not_end_us() -> None:
    """Only a reader of our output does."""
    with contextlib.suppress(SystemExit):
        cli.main(["--help"])
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError):
        ours.send(b"x")
