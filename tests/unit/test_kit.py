"""The spine: errors, decoding, settings, processes, files."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from kit import decode, errors, files, process, settings, shell
from kit.nouns import Platform, key_of


def test_one_exit_code_a_class() -> None:
    classes = errors.SlipworksError.__subclasses__()
    assert set(errors.EXIT_CODES) == {kind.__name__ for kind in classes}
    assert len(set(errors.EXIT_CODES.values())) == len(classes)
    assert all(1 < code < 64 for code in errors.EXIT_CODES.values())


class Inner(Struct, forbid_unknown_fields=True):
    suite: str


class Outer(Struct, forbid_unknown_fields=True):
    name: str
    inner: dict[str, Inner] = {}


def test_unknown_key_is_named_with_its_place_and_what_was_meant() -> None:
    with pytest.raises(errors.UnknownNameError) as caught:
        decode.toml('name = "x"\n[inner.debian]\nsuit = "trixie"\n', Outer, "a.toml")
    assert "suit" in caught.value.message and "a.toml" in caught.value.message
    assert caught.value.hint == "did you mean 'suite'?"


class Choosing(Struct, forbid_unknown_fields=True):
    way: Literal["none", "slurm"] | None = None


def test_a_word_that_is_no_choice() -> None:
    with pytest.raises(errors.UnknownNameError) as caught:
        decode.toml('way = "slrm"\n', Choosing, "a.toml")
    assert caught.value.message == "unknown way 'slrm' in a.toml: expected one of none, slurm"
    assert caught.value.hint == "did you mean 'slurm'?"


def test_wrong_type_and_broken_toml() -> None:
    with pytest.raises(
        errors.InvalidFileError, match=r"a\.toml: found a whole number for name, expected text$"
    ):
        decode.toml("name = 3", Outer, "a.toml")
    with pytest.raises(errors.InvalidFileError, match=r"a\.toml is not TOML"):
        decode.toml("name = ", Outer, "a.toml")


class Wide(Struct, forbid_unknown_fields=True):
    kept: Inner | bool = False
    many: tuple[str, ...] = ()
    any_of: dict[str, str | bool] = {}
    run: str | tuple[str, ...] = ""
    inner: tuple[str | Inner, ...] = ()


@pytest.mark.parametrize(
    ("data", "said", "brackets"),
    [
        ({"kept": "x"}, "found text for kept, expected true or false, or a mapping with suite", False),
        ({"many": "x"}, "found text for many, expected a list", True),
        (
            {"any_of": {"a": 1.5}},
            "found a number with a fraction in any_of, expected text, or true or false",
            0,
        ),
        ({"any_of": {1: "a"}}, "found a whole number as a name in any_of, expected text (in quotes)", False),
        ({"run": 3}, "found a whole number for run, expected text, or a list", True),
        ({"inner": [None]}, "found nothing for inner[0], expected text, or a mapping with suite", False),
        ({"inner": [{}]}, "inner[0] has no suite, which must be given", False),
        ([], "found a list, expected a mapping with kept, many, any_of, run, inner", False),
    ],
)
def test_a_wrong_type_is_told_in_words_of_the_file(data: object, said: str, brackets: bool) -> None:
    with pytest.raises(errors.InvalidFileError) as caught:
        decode.convert(data, Wide, "a.yaml")
    assert caught.value.message == f"a.yaml: {said}"
    assert bool(caught.value.hint) == bool(brackets)


def test_settings_order_and_sources(tmp_path: Path) -> None:
    file = tmp_path / "slipworks" / "config.toml"
    files.write(file, 'engine = "podman"\ncluster = "vista"\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "SLIPWORKS_CLUSTER": "local"}
    got = settings.load(
        {"engine": None, "cache": "/c"}, environment, {"torch_index": "t", "engine": "docker"}
    )
    assert got.settings == settings.Settings(
        cache="/c", runs=got.settings.runs, engine="podman", cluster="local", torch_index="t"
    )
    assert got.sources == {
        "cache": "flag", "cluster": "SLIPWORKS_CLUSTER", "engine": str(file), "torch_index": "cluster file",
        "runs": "default", "bases": "default",
    }  # fmt: skip


def test_settings_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(errors.UnknownNameError) as caught:
        settings.load(environment={"XDG_CONFIG_HOME": str(tmp_path), "SLIPWORKS_ENGIN": "podman"})
    assert caught.value.hint == "did you mean 'SLIPWORKS_ENGINE'?"
    files.write(tmp_path / "slipworks" / "config.toml", "cach = '/x'\n")
    with pytest.raises(errors.UnknownNameError) as caught:
        settings.load(environment={"XDG_CONFIG_HOME": str(tmp_path)})
    assert caught.value.hint == "did you mean 'cache'?"


@pytest.mark.parametrize("name", settings.NAMES)
def test_an_empty_setting_of_the_user_file_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "slipworks" / "config.toml"
    files.write(file, f"{name} = ''\n")
    with pytest.raises(errors.InvalidFileError) as caught:
        settings.load(environment={"XDG_CONFIG_HOME": str(tmp_path)})
    assert caught.value.message == f"found an empty {name} in {file}"


@pytest.mark.parametrize("name", ["cache", "runs"])
def test_a_home_that_there_is_not(tmp_path: Path, name: str) -> None:
    variable = f"SLIPWORKS_{name.upper()}"
    with pytest.raises(errors.InvalidFileError, match=rf"the setting {name} \({variable}\)") as caught:
        settings.load(environment={"XDG_CONFIG_HOME": str(tmp_path), variable: "~no-such-user/x"})
    assert caught.value.hint == "runner config"


@pytest.mark.parametrize("name", ["cache", "runs"])
def test_folders_that_cannot_be(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for path, kind in (
        ("/proc/x", errors.HostError),
        ("/proc", errors.HostError),
        (f"{tmp_path}/file", errors.InvalidFileError),
        (f"{tmp_path}/file/below/it", errors.InvalidFileError),
    ):
        monkeypatch.setenv(f"SLIPWORKS_{name.upper()}", path)
        with pytest.raises(kind, match=f"the setting {name} ") as caught:
            settings.writable(name)
        assert type(caught.value) is kind and caught.value.hint == "runner config"
    monkeypatch.setenv(f"SLIPWORKS_{name.upper()}", f"{tmp_path}/new/one")
    assert settings.writable(name) == tmp_path / "new/one"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_cache_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so the kernel's answer is given here."""
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(errors.HostError, match=r"the setting cache is .*: it cannot be read"):
        settings.Settings(cache=str(tmp_path)).cache_folder  # noqa: B018


def test_platform() -> None:
    assert str(Platform.parse("arm64")) == "linux/arm64"
    assert Platform.parse("linux/amd64").machine == "x86_64"
    with pytest.raises(errors.UnknownNameError, match="windows/amd64"):
        Platform.parse("windows/amd64")


@given(st.dictionaries(st.text(), st.text()), st.text(), st.text())
def test_key_depends_on_every_input_and_on_no_order(inputs: dict[str, str], name: str, value: str) -> None:
    shuffled = dict(reversed(list(inputs.items())))
    assert key_of(inputs) == key_of(shuffled)
    if inputs.get(name) != value:
        assert key_of(inputs) != key_of({**inputs, name: value})


@given(st.text().filter(lambda text: "\0" not in text))
def test_quote_carries_every_value(value: str) -> None:
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        return
    done = process.run(["bash", "-c", f"printf %s {shell.quote(value)}"], what="echo")
    assert done.out == raw.decode()


def test_process_failures_are_told() -> None:
    with pytest.raises(errors.BuildError, match=r"could not fetch: sh ended with exit code 3(.|\n)*told why"):
        process.run(["sh", "-c", "echo told why >&2; exit 3"], what="fetch")
    with pytest.raises(errors.MissingToolError, match="no-such-program is not installed"):
        process.run(["no-such-program"], what="fetch")
    with pytest.raises(errors.NoSpaceError):
        process.stream(
            ["sh", "-c", "echo 'x: No space left on device'; exit 1"], what="x", on_line=lambda _: None
        )
    with pytest.raises(errors.BuildError, match=r"no answer in 0\.1 s"):
        process.run(["sleep", "5"], what="x", timeout=0.1)


def test_interrupted_stream_ends_what_it_started(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        (tmp_path / "pid").write_text(line)
        raise Stop

    with pytest.raises(Stop):
        process.stream(["sh", "-c", "sleep 600 & echo $!; wait"], what="x", on_line=stop)
    assert not alive(int((tmp_path / "pid").read_text()))


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] != "Z"


def test_a_group_is_ended_with_those_who_ignore_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "(trap '' TERM; echo deaf; sleep 600; sleep 600) & echo $!; exit 0"
    child = process.start(["sh", "-c", script], what="x", log=log)
    while len(log.read_text().split()) < 2:
        time.sleep(0.01)
    process.end_group(child, grace=0.3)
    deaf = next(int(word) for word in log.read_text().split() if word != "deaf")
    assert child.returncode == 0 and not alive(deaf)


def test_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a 'b\n"
    files.write(place, "old")
    with pytest.raises(RuntimeError), files.beside(place) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert place.read_text() == "old" and list(tmp_path.iterdir()) == [place]

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "_fsync", full)
    with pytest.raises(errors.NoSpaceError):
        files.write(place, "new")
    assert place.read_text() == "old" and list(tmp_path.iterdir()) == [place]
