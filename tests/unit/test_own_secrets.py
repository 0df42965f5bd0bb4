"""The user's file of secrets, and the verbs that change it: values reach no output and no other file."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import json

from image_cache import claim
from kit.errors import HostError, InvalidFileError, UnknownNameError, UsageError
from runner import cli, own_secrets

VALUE = "s3cret-'\"$x\N{SNOWMAN}"
Type = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SLIPWORKS_CLUSTER", "local")
    for name in ("A_KEY", "B_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def type_(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """A command with something on its stdin: code, stdout, stderr."""

    def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(stdin))))
        code = cli.main(["secrets", *words])
        told = capfd.readouterr()
        assert "s3cret" not in told.out + told.err
        return code, told.out, told.err

    return run


def job(folder: Path, text: str) -> str:
    path = folder / "job.yaml"
    path.write_text(f"name: j\narch: cpu\nrun: 'true'\n{text}")
    return str(path)


def test_a_value_comes_from_stdin_into_a_file_of_its_own_mode(type_: Type, home: Path) -> None:
    before = os.umask(0)
    try:
        code, out, err = type_("set", "A_KEY", stdin=f"{VALUE}\n")
    finally:
        os.umask(before)
    assert (code, out) == (0, "") and "A_KEY: stored, in " in err
    path = home / "config/slipworks/secrets.json"
    assert own_secrets.file() == path and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert own_secrets.read() == {"A_KEY": VALUE}
    assert "A_KEY: changed" in type_("set", "A_KEY", stdin="s3cret-other")[2]
    assert "A_KEY: stored as it was" in type_("set", "A_KEY", stdin="s3cret-other\r\n")[2]
    assert type_("list")[1] == "A_KEY\n" and json.decode(type_("list", "--json")[1]) == ["A_KEY"]
    holding = [each for each in home.rglob("*") if each.is_file() and b"s3cret" in each.read_bytes()]
    assert holding == [path]


def test_a_value_of_several_lines_keeps_its_end(type_: Type, tmp_path: Path) -> None:
    key = "-----BEGIN KEY-----\ns3cret\n-----END KEY-----\n"
    (tmp_path / "key").write_text(key)
    (tmp_path / "token").write_text("s3cret\n")
    assert type_("set", "A_KEY", "--file", str(tmp_path / "key"))[0] == 0
    assert type_("set", "B_KEY", "--file", str(tmp_path / "token"))[0] == 0
    assert own_secrets.read() == {"A_KEY": key, "B_KEY": "s3cret"}


@pytest.mark.parametrize("words", [("A_KEY=s3cret",), ("A_KEY", "s3cret"), ("not a name/s3cret",)])
def test_a_value_on_the_command_line_is_refused_and_not_repeated(type_: Type, words: tuple[str, ...]) -> None:
    code, _, err = type_("set", *words)
    assert code == UsageError.code and "hint: runner secrets set" in err
    assert not own_secrets.file().exists()


def test_an_option_that_there_is_not_is_told_without_its_value(type_: Type) -> None:
    code, _, err = type_("set", "A_KEY", "--value=s3cret")
    assert code == UsageError.code and "unrecognized argument: --value\n" in err


def test_a_prompt_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def prompt(text: str, stream: object) -> str:
        asked.append(text)
        return VALUE

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("getpass.getpass", prompt)
    monkeypatch.setattr("sys.stdin", Terminal())
    assert cli.main(["secrets", "set", "A_KEY"]) == 0 and asked == ["A_KEY: "]
    assert own_secrets.read() == {"A_KEY": VALUE}


def test_the_end_of_input_at_a_prompt_stores_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompt(text: str, stream: object) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", prompt)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert cli.main(["secrets", "set", "A_KEY"]) == UsageError.code
    assert "no value was given" in capsys.readouterr().err and not own_secrets.file().exists()


@pytest.mark.parametrize(
    ("value", "why"), [("", "is empty"), ("a\0b", "NUL"), ("x" * (128 << 10), "128 KiB")]
)
def test_what_no_program_can_be_given_is_refused(type_: Type, value: str, why: str) -> None:
    code, _, err = type_("set", "A_KEY", stdin=value)
    assert code == UsageError.code and why in err and not own_secrets.file().exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_file_that_others_can_open_is_refused_by_everything(type_: Type, tmp_path: Path, mode: int) -> None:
    type_("set", "A_KEY", stdin=VALUE)
    own_secrets.file().chmod(mode)
    for words in (("list",), ("set", "B_KEY"), ("check",), ("check", job(tmp_path, "secrets: [A_KEY]\n"))):
        code, out, err = type_(*words, stdin="x")
        assert (code, out) == (HostError.code, "") and f"found mode {mode:04o}, expected 0600" in err
        assert "hint: chmod 600 " in err
    with pytest.raises(HostError):
        own_secrets.demanded(["A_KEY"])
    assert own_secrets.demanded(["A_KEY"], {"A_KEY": "x"}) == {"A_KEY": "x"}, "then it is not opened"


def test_another_users_file_is_refused(type_: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    type_("set", "A_KEY", stdin=VALUE)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(HostError, match="another user's"):
        own_secrets.read()


def test_a_file_that_is_none_of_ours_is_not_quoted(type_: Type) -> None:
    type_("set", "A_KEY", stdin=VALUE)
    own_secrets.file().write_text('{"A_KEY": "s3cret')
    code, _, err = type_("list")
    assert code == InvalidFileError.code and "is not the file of secrets" in err


def test_a_link_stays_a_link(type_: Type, tmp_path: Path) -> None:
    own_secrets.file().parent.mkdir(parents=True)
    own_secrets.file().symlink_to(tmp_path / "elsewhere.json")
    link = tmp_path / "config/slipworks/secrets.json"
    type_("set", "A_KEY", stdin=VALUE)
    type_("set", "B_KEY", stdin=VALUE)
    assert link.is_symlink() and (tmp_path / "elsewhere.json").stat().st_mode & 0o777 == 0o600
    assert set(own_secrets.read()) == {"A_KEY", "B_KEY"}


def test_of_changes_at_once_none_is_lost() -> None:
    def put(number: int) -> None:
        with own_secrets.changing() as values:
            values[f"KEY_{number}"] = "x"

    threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(own_secrets.read()) == 6


def test_a_writer_that_was_killed_elsewhere_does_not_hold_the_file_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command is a new watcher: it has to be as patient as it takes to see that nobody lives."""
    holder = claim.Owner(host="other", pid=1, started=1, machine="another machine")
    held = own_secrets.file().with_name(".secrets.json.claim")
    held.mkdir(parents=True)
    (held / "1").write_bytes(json.encode(holder).ljust(512))
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    time = SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
    monkeypatch.setattr(claim, "time", time)
    monkeypatch.setattr(own_secrets, "time", time)
    with own_secrets.changing() as values:
        values["A_KEY"] = "x"
    assert own_secrets.read() == {"A_KEY": "x"} and clock[0] > claim.SILENCE


def test_a_change_that_fails_changes_nothing(type_: Type) -> None:
    type_("set", "A_KEY", stdin=VALUE)
    with pytest.raises(RuntimeError), own_secrets.changing() as values:
        values.clear()
        raise RuntimeError
    assert own_secrets.read() == {"A_KEY": VALUE}


def test_removing(type_: Type) -> None:
    for name in ("A_KEY", "B_KEY"):
        type_("set", name, stdin=VALUE)
    code, _, err = type_("remove", "A_KEY", "A_KEX")
    assert code == UnknownNameError.code and "A_KEX" in err and set(own_secrets.read()) == {"A_KEY", "B_KEY"}
    assert type_("remove", "A_KEY")[0] == 0 and set(own_secrets.read()) == {"B_KEY"}


def test_the_environment_comes_before_the_file(
    type_: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_("set", "A_KEY", stdin=VALUE)
    file = job(tmp_path, "secrets: [A_KEY, B_KEY]\n")
    code, out, err = type_("check", file)
    assert (code, out) == (UsageError.code, "A_KEY  file\nB_KEY  missing\n")
    assert "needs B_KEY" in err and "hint: runner secrets set B_KEY" in err
    monkeypatch.setenv("A_KEY", "s3cret of the environment")
    monkeypatch.setenv("B_KEY", "")
    code, out, _ = type_("check", file, "--json")
    assert (code, json.decode(out)) == (0, {"A_KEY": "environment", "B_KEY": "environment"})
    assert own_secrets.demanded(["A_KEY", "B_KEY"]) == {"A_KEY": "s3cret of the environment", "B_KEY": ""}
    monkeypatch.setenv("A_KEY", "")
    assert own_secrets.demanded(["A_KEY"]) == {"A_KEY": VALUE}, "set to nothing: the file has it"
    assert type_("check")[1] == "A_KEY  file\n"
    assert type_("check", file, "secrets=[A_KEY]")[:2] == (0, "A_KEY  file\n")


def test_the_token_of_an_upload_is_one_that_the_job_needs(type_: Type, tmp_path: Path) -> None:
    after = "checkpoints: true\nafter: {upload: {repo: me/model, token: B_KEY, partition: cpu}}\n"
    type_("set", "A_KEY", stdin=VALUE)
    code, out, err = type_("check", job(tmp_path, f"secrets: [A_KEY]\n{after}"))
    assert (code, out) == (UsageError.code, "A_KEY  file\nB_KEY  missing\n") and "needs B_KEY" in err
    type_("set", "B_KEY", stdin=VALUE)
    code, out, _ = type_("check", job(tmp_path, f"secrets: [B_KEY]\n{after}"))
    assert (code, out) == (0, "B_KEY  file\n"), "once"


def test_a_job_whose_secret_is_nowhere_is_told_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A_KEY, which is neither set here nor in ") as raised:
        own_secrets.demanded(["A_KEY"])
    assert raised.value.hint == "runner secrets set A_KEY"


def test_an_import_reads_and_never_runs(type_: Type, tmp_path: Path) -> None:
    file = tmp_path / "api-keys.sh"
    file.write_text(
        f"touch {tmp_path}/ran\nexport A_KEY='{'s3cret-$x'}' # mine\nexport B_KEY=\"$A_KEY s3cret\"\n"
    )
    file.chmod(0o644)
    code, out, err = type_("import", str(file), "--dry-run")
    assert (code, out) == (0, "A_KEY\n") and "1 would be stored" in err and not own_secrets.file().exists()
    code, out, err = type_("import", str(file))
    assert (code, out) == (0, "A_KEY\n") and own_secrets.read() == {"A_KEY": "s3cret-$x"}
    assert f"{file}:3: left out B_KEY: it has a $" in err and f"{file}:1: left out: a command" in err
    assert f"chmod 600 {file}" in err and not (tmp_path / "ran").exists()
    code, _, err = type_("import", str(file), "A_KEY", "B_KEY")
    assert code == InvalidFileError.code and "no value of B_KEY" in err and "nothing was stored" in err


def test_an_import_of_nothing_is_an_error(type_: Type, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_s3cret\n")
    code, _, err = type_("import", str(tmp_path / "token"))
    assert code == InvalidFileError.code and "no assignment" in err
    assert type_("import", str(tmp_path / "none"))[0] == InvalidFileError.code
