"""Whatever a value holds: it arrives byte for byte, or is refused in one line; nothing in it is ever run."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.errors import InvalidFileError
from slurm import script
from slurm.script import LONGEST_WORD, directive, filename, render
from tests.unit.parts_hostile import values
from tests.unit.parts_script import RANK, Cluster

CANARY = "canary-7f3a"
VALUES = values(CANARY)
NO_NUL = st.binary(max_size=40).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def untouched(cluster: Cluster) -> bool:
    """The script's own folder is /, and below the cluster's are all others."""
    places = (*cluster.record.parent.rglob(CANARY), Path("/", CANARY), Path(CANARY))
    return not any(place.exists() for place in places)


def test_words_of_every_command(cluster: Cluster) -> None:
    program = '#!/bin/bash\nprintf "%s\\0" "$@" >"$RECORD/${0##*/}"; [ "${0##*/}" != have ]\n'
    for name in ("have", "fetch", "remove", "module"):
        cluster.program(name, program.replace(">", ">>") if name == "module" else program)
    cluster.container("ended 1; exit 1")
    batch = cluster.batch(
        container=("engine", *VALUES), words_at=5, have=("have", *VALUES), fetch=("fetch", *VALUES),
        remove=("remove", *VALUES), modules=tuple(VALUES),
        fabric=tuple(f"/nowhere/{value}" for value in VALUES if len(value) < 1000),
        devices=tuple(f"/nowhere/{value}" for value in VALUES if len(value) < 1000),
    )  # fmt: skip
    code, said = cluster.finish(batch)
    assert code == 1, said[-2000:]
    assert cluster.words("engine-0") == ["engine", *VALUES, "--attempt", "1", "--rank", "0"]
    for name in ("have", "fetch", "remove"):
        assert cluster.words(name) == VALUES, name
    assert cluster.words("module") == [word for value in VALUES for word in ("load", value)]
    assert untouched(cluster)


def test_the_rank_within_any_word(cluster: Cluster) -> None:
    words = [f"{value}{RANK}{value}{RANK}" for value in VALUES if len(value) < 1000]
    code, said = cluster.finish(cluster.batch(container=("engine", *words)))
    assert code == 0, said[-2000:]
    assert cluster.words("engine-0")[1:-4] == [word.replace(RANK, "0") for word in words]
    assert untouched(cluster)


def folders(longest: int = 1500) -> list[Path]:
    """Relative paths that together have every value that a path can hold, each as a name."""
    found = [Path()]
    for value in VALUES:
        name = f"r{value.replace('/', '%')}"
        if len(os.fsencode(name)) < 200:
            if len(os.fsencode(found[-1] / name)) > longest:
                found.append(Path())
            found[-1] /= name
    return found


@pytest.mark.parametrize("number", range(len(folders())))
def test_any_run_folder(tmp_path: Path, number: int) -> None:
    """And any files of secrets in it, and any temporary folder."""
    below = folders()[number]
    cluster = Cluster(tmp_path, tmp_path / below)
    temporary = tmp_path / "temporary" / below
    secrets = [cluster.run / part for part in below.parts]
    temporary.mkdir(parents=True)
    for secret in secrets:
        secret.write_text("x")
    (cluster.run / "chain").write_text("7\n8\n")
    cluster.container("printf succeeded >../../finished; ended 0")
    batch = cluster.batch(secrets=tuple(secrets), temporary=True)
    code, said = cluster.finish(batch, TMPDIR=str(temporary))
    assert code == 0, said
    assert {path.name for path in cluster.attempt("").iterdir()} >= {
        "meeting",
        "slurm",
        "step-0",
        "node-0.log",
    }
    assert not any(secret.exists() for secret in secrets)
    assert not list(temporary.iterdir())
    assert (
        f"source={str(temporary).replace(chr(34), chr(34) * 2)}/slipworks-7-0."
        in cluster.words("engine-0")[1]
    )
    assert (cluster.record / "scancel").read_text() == "8\n"
    assert untouched(cluster)


@settings(max_examples=40, deadline=None)
@given(words=st.lists(NO_NUL, max_size=30))
@example(words=["a\r", "\r\n", "\r\r", ""])
def test_any_words(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))
        assert cluster.finish(cluster.batch(container=("engine", *words)))[0] == 0
        assert cluster.words("engine-0")[1:-4] == words


def test_scripts_have_no_dos_line_ends(cluster: Cluster) -> None:
    """sbatch refuses those."""
    text = render(cluster.batch(container=("engine", *VALUES)))
    assert "\r" not in text
    assert "\0" not in text


class TestDirectives:
    """Read as sbatch reads them: see `sbatch_reads`."""

    @pytest.mark.parametrize("value", [value for value in VALUES if "\n" not in value and len(value) < 5000])
    def test_arrive(self, value: str) -> None:
        assert sbatch_reads(directive("comment", value)) == [f"--comment={value}"]

    @given(NO_NUL.filter(lambda value: "\n" not in value))
    def test_any(self, value: str) -> None:
        assert sbatch_reads(directive("job-name", value)) == [f"--job-name={value}"]

    @pytest.mark.parametrize("value", [value for value in VALUES if "\n" in value] + ["a\0b"])
    def test_line_breaks_are_refused(self, value: str) -> None:
        with pytest.raises(InvalidFileError, match="comment cannot hold a line break") as refused:
            directive("comment", value)
        assert "\n" not in refused.value.message

    @pytest.mark.parametrize("name", ["", "-x", "a b", "a=b", "N", "a\nb", "A", "a;b", "é", "a#"])
    def test_names_are_names(self, name: str) -> None:
        with pytest.raises(InvalidFileError, match="long name"):
            directive(name, "x")

    def test_without_a_value(self) -> None:
        assert directive("exclusive", True) == "#SBATCH --exclusive"
        assert directive("nodes", 3) == "#SBATCH --nodes=3"

    def test_what_is_left_out(self, cluster: Cluster) -> None:
        text = render(cluster.batch(options={"requeue": False, "hold": True}))
        assert "requeue" not in text.split("\n#\n")[0]
        assert text.startswith("#!/bin/bash\n#SBATCH --hold\n#\n")

    def test_longer_than_sbatch_reads(self) -> None:
        with pytest.raises(InvalidFileError, match="longer than sbatch takes"):
            directive("comment", "x" * 9000)


@pytest.mark.parametrize(
    ("folder", "value"),
    [
        ("/data/run", "/data/run/slurm-%j.out"),
        ("/data/100%j", "/data/100%%j/slurm-%j.out"),
        ("/da\\ta/%j", "/da\\\\ta/%j/slurm-%j.out"),
    ],
)
def test_folders_of_logs(folder: str, value: str) -> None:
    assert filename(Path(folder), "slurm-%j.out") == value


class TestTooMuch:
    def test_the_longest_word_is_carried(self, cluster: Cluster) -> None:
        word = "é" * (LONGEST_WORD // 2) + "x"
        assert len(word.encode()) == LONGEST_WORD
        assert cluster.finish(cluster.batch(container=("engine", word)))[0] == 0
        assert cluster.words("engine-0")[1] == word

    @pytest.mark.parametrize("field", ["container", "remove", "have", "fetch"])
    def test_a_longer_one_is_refused(self, cluster: Cluster, field: str) -> None:
        with pytest.raises(InvalidFileError, match=f"{LONGEST_WORD + 1} bytes, exec takes") as refused:
            render(cluster.batch(**{field: ("engine", "x" * (LONGEST_WORD + 1))}))
        assert len(refused.value.message) < 200

    def test_a_whole_command(self, cluster: Cluster) -> None:
        with pytest.raises(InvalidFileError, match="the container's command would have"):
            render(cluster.batch(container=("engine", *["x" * 100_000] * 11)))

    def test_a_script(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(script, "LONGEST_SCRIPT", 5000)
        with pytest.raises(InvalidFileError, match="sbatch takes 5000"):
            render(cluster.batch())


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
@pytest.mark.parametrize("field", ["container", "remove", "have", "fetch", "modules", "fabric", "devices"])
def test_what_no_program_can_be_given(cluster: Cluster, field: str, value: str) -> None:
    with pytest.raises(InvalidFileError):
        render(cluster.batch(**{field: ("engine", value)}))


def test_a_relative_run_folder(cluster: Cluster) -> None:
    with pytest.raises(InvalidFileError, match="absolute"):
        render(cluster.batch(run=Path("here")))


def sbatch_reads(line: str) -> list[str]:
    """The words of a #SBATCH line, by the rules of Slurm 22.05, which are not a shell's."""
    words: list[str] = []
    word, quoted, started, rest = "", "", False, iter(line.removeprefix("#SBATCH"))
    for char in rest:
        if char == "\\":
            word, started = word + next(rest), True
        elif quoted:
            word, quoted = (word, "") if char == quoted else (word + char, quoted)
        elif char in "\"'":
            quoted, started = char, True
        elif char == "#":
            break
        elif char in " \t\v\f\r\n":
            words, word, started = ([*words, word] if started else words), "", False
        else:
            word, started = word + char, True
    assert not quoted, line
    return [*words, word] if started else words


def test_the_rules_differ_from_a_shells() -> None:
    """So that nobody takes shell quoting for them."""
    assert sbatch_reads("#SBATCH --comment='it'\"'\"'s'") == shlex.split("--comment='it'\"'\"'s'")
    assert sbatch_reads(r"#SBATCH --comment='a\'b'") == ["--comment=a'b"]
