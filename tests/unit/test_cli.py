"""The command line: two lines for every failure, its own exit code, never a traceback."""

from __future__ import annotations

import pytest

from kit.errors import EXIT_CODES
from runner import cli


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
        (["submit", "x.yaml", "--cluster", "locl"], "UnknownNameError", "cluster 'locl'", "'local'"),
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
