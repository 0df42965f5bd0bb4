"""What a list or a dataset wants, in each form, and what is told of a bad line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from image_cache.prebuild import lists
from image_cache.prebuild.lists import Entry, Kind
from kit.errors import InvalidFileError, MissingToolError, UnknownNameError

ID = "Project-MONAI__MONAI-3384"
R2E = {"repo_name": "aiohttp", "docker_image": "namanjain12/aiohttp_final:f0d7", "commit_hash": "f0d7"}


def found(path: Path, kind: Kind = "list") -> list[Entry]:
    return list(lists.read(path, kind))


def test_a_text_list(tmp_path: Path) -> None:
    path = tmp_path / "a list"
    path.write_text(
        "\ufeff# bases\n\n"
        "python:3.12  py\n"
        f"localhost:5000/a/b@sha256:{'0' * 64} one two # a comment\n"
        "docker.io/library/debian:sid\n"
    )
    assert found(path) == [
        Entry("docker.io/library/python:3.12", ("py", "python:3.12")),
        Entry(f"localhost:5000/a/b@sha256:{'0' * 64}", ("one", "two")),
        Entry("docker.io/library/debian:sid"),
    ]


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        ("r2e", R2E, Entry("docker.io/namanjain12/aiohttp_final:f0d7", (R2E["docker_image"],))),
        ("swe-gym", {"instance_id": ID},
         Entry("docker.io/xingyaoww/sweb.eval.x86_64.project-monai_s_monai-3384:latest", (ID,))),
        ("swebench", {"instance_id": "astropy__astropy-12907", "repo": "astropy/astropy"},
         Entry("docker.io/swebench/sweb.eval.x86_64.astropy_1776_astropy-12907:latest",
               ("astropy__astropy-12907",))),
        ("list", {"image": "python:3.12", "name": "py"},
         Entry("docker.io/library/python:3.12", ("py", "python:3.12"))),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["jsonl", "json", "pretty", "parquet"])
def test_datasets_in_every_form(
    tmp_path: Path, kind: Kind, row: dict[str, Any], expected: Entry, form: str
) -> None:
    path = tmp_path / "data.json"  # the name says nothing
    if form == "parquet":
        written(path, [row, row])
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps(row) for _ in range(2)) + "\n")
    else:
        path.write_text(json.dumps([row, row], indent=2 if form == "pretty" else None))
    assert found(path, kind) == [expected, expected]


def written(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("inner", [R2E, json.dumps(R2E)])
def test_a_row_within_a_trainers_row(tmp_path: Path, inner: Any) -> None:
    row = {"prompt": [], "instance": inner, "data_source": "r2e"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    written(tmp_path / "b", [{**row, "prompt": "x"}])
    assert found(tmp_path / "a.jsonl", "r2e") == found(tmp_path / "b", "r2e")
    assert found(tmp_path / "b", "r2e")[0].base == "docker.io/namanjain12/aiohttp_final:f0d7"


GOOD = '{"docker_image": "a/b:c"}\n'


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("list", "python:3.12\nPython:3\n", "line 2: not an image reference: found 'Python:3'"),
        ("list", '{"image": "a"}\n{"image": "a", "nmae": "b"}\n', "line 2: expected one of image, name"),
        ("list", '{"picture": "a"}\n', "line 1 has no 'image': its fields are 'picture'"),
        ("list", '["a", 3]', "row 2: found 3, expected an object with 'image'"),
        ("r2e", GOOD + '{"docker_imgae": "a/b:c", "x": 1}\n', "line 2 has no 'docker_image': its fields are"),
        ("r2e", GOOD + '{"docker_image": 7}\n', "line 2: 'docker_image' is 7, expected a string"),
        ("r2e", GOOD + '{"docker_image": "a b"}\n', "line 2: not an image reference"),
        ("r2e", GOOD + GOOD + '{"docker_image": "a/b:c"\n', "line 3 is not JSON"),
        ("r2e", f"[{GOOD},{GOOD}", "row 2 is not JSON: the file ends within the array"),
        ("r2e", f"[{GOOD} {GOOD}]", "row 1 is not followed by"),
        ("r2e", f"[{GOOD}, {{x]", "row 2 is not JSON"),
        ("r2e", "a/b:c\n", "is neither JSON nor Parquet: a r2e dataset is one of these"),
        ("r2e", "PAR1 and nothing", "is not Parquet that can be read"),
    ],
)
def test_a_bad_line_is_one_error_with_its_number(tmp_path: Path, kind: Kind, text: str, said: str) -> None:
    path = tmp_path / "list"
    path.write_text(text)
    with pytest.raises((InvalidFileError, UnknownNameError)) as told:
        found(path, kind)
    assert said in told.value.message and str(path) in told.value.message
    assert "\n" not in told.value.message


def test_did_you_mean(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"docker_imgae": "a/b:c"}\n')
    with pytest.raises(InvalidFileError) as told:
        found(tmp_path / "a", "r2e")
    assert told.value.hint == "is 'docker_imgae' what should be 'docker_image'?"


def test_no_text_no_file_a_folder(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"python:3\n\xff\xfe\n")
    for name, said in (("bytes", "line 2 is no text"), ("none", "cannot read"), (".", "is a folder")):
        with pytest.raises(InvalidFileError, match=said):
            found(tmp_path / name)


def test_without_pyarrow_it_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a", [R2E])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingToolError, match="needs pyarrow") as told:
        found(tmp_path / "a", "r2e")
    assert told.value.hint and "JSON Lines" in told.value.hint


def test_nothing_but_parquet_imports_pyarrow(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("python:3.12\n")
    code = (
        "import sys; from pathlib import Path; from image_cache.prebuild import lists\n"
        "list(lists.read(Path(sys.argv[1]), 'list')); sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False).returncode == 0


def test_an_array_larger_than_memory_streams(tmp_path: Path) -> None:
    """Rows as r2e has them, with whole files in them: 200 MB are read in far less."""
    path = tmp_path / "data.json"
    heavy = json.dumps({**R2E, "parsed_commit_content": "é\\" * 700_000})
    with path.open("w") as file:
        for number in range(50):
            file.write(("," if number else "[") + heavy)
        file.write("]")
    assert path.stat().st_size > 150_000_000
    code = (
        "import sys; from pathlib import Path; from image_cache.prebuild import lists\n"
        "print(sum(1 for _ in lists.read(Path(sys.argv[1]), 'r2e')))\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count == 50 and peak < 120_000  # kB
