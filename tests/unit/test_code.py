"""Snapshots of checkouts: what is taken, what is not, and that it can be made again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from msgspec import json

from kit import process
from kit.errors import InvalidFileError
from runner import code
from runner.code import Snapshot
from runner.job import Code


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always")
    return process.run(["git", *who, *words], what="prepare", cwd=folder).out.strip()


def put(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """A checkout with one commit."""
    folder = tmp_path / "a fork's folder"
    folder.mkdir()
    put(folder, pkg__module_py="first\n", pkg__gone_py="x\n")
    (folder / ".gitignore").write_text("*.bin\nout/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=one")
    return folder


def taken(folder: Path, to: Path, **said: object) -> Snapshot:
    return code.take(code.listed(Code(source=str(folder), **said)), to, 0)  # type: ignore[arg-type]


def there(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_a_clean_checkout(fork: Path, tmp_path: Path) -> None:
    found = taken(fork, tmp_path / "code")
    assert there(tmp_path / "code/0") == {"pkg/module.py", "pkg/gone.py", ".gitignore"}
    assert (found.commit, found.dirty, found.untracked) == (git(fork, "rev-parse", "HEAD"), False, 0)
    assert found.files == 3 and found.bytes == sum(path.stat().st_size for path in fork.rglob("*.py")) + 11
    assert json.decode((tmp_path / "code/0.json").read_bytes(), type=Snapshot) == found
    assert not (tmp_path / "code/0.diff").exists()


def test_what_is_changed_new_deleted_and_ignored(fork: Path, tmp_path: Path) -> None:
    put(fork, pkg__module_py="second\n", pkg__new_py="n\n", out__log="o", weights="w")
    (fork / "weights").rename(fork / "weights.bin")
    (fork / "pkg/gone.py").unlink()
    (fork / "pkg/module.py").chmod(0o755)
    found = taken(fork, tmp_path / "code")
    at = tmp_path / "code/0"
    assert there(at) == {"pkg/module.py", "pkg/new.py", ".gitignore"}
    assert (at / "pkg/module.py").read_text() == "second\n"
    assert stat.S_IMODE((at / "pkg/module.py").stat().st_mode) & 0o111
    assert (at / "pkg/new.py").stat().st_mtime_ns == (fork / "pkg/new.py").stat().st_mtime_ns
    assert found.dirty and found.untracked == 1


def test_the_diff_leads_from_the_commit_to_what_was_taken(fork: Path, tmp_path: Path) -> None:
    (fork / "pkg/module.py").write_bytes(b"\xff\x00binary")
    found = taken(fork, tmp_path / "code")
    assert found.dirty and found.commit
    again = tmp_path / "again"
    git(tmp_path, "clone", "--quiet", str(fork), str(again))
    git(again, "apply", str(tmp_path / "code/0.diff"))
    assert (again / "pkg/module.py").read_bytes() == b"\xff\x00binary"


def test_a_folder_of_a_checkout_is_taken_alone(fork: Path, tmp_path: Path) -> None:
    found = taken(fork / "pkg", tmp_path / "code")
    assert there(tmp_path / "code/0") == {"module.py", "gone.py"} and found.commit


def test_a_folder_that_the_repository_around_ignores(fork: Path, tmp_path: Path) -> None:
    put(fork, out__a_py="x")
    found = taken(fork / "out", tmp_path / "code")
    assert there(tmp_path / "code/0") == {"a.py"} and found.commit is None


@pytest.mark.parametrize("ignoring", [True, False])
def test_a_folder_outside_git(tmp_path: Path, ignoring: bool) -> None:
    plain = tmp_path / "plain"
    put(plain, a_py="x", out__b="y")
    if ignoring:
        (plain / ".gitignore").write_text("out\n")
    found = taken(plain, tmp_path / "code")
    assert there(tmp_path / "code/0") == ({"a.py", ".gitignore"} if ignoring else {"a.py", "out/b"})
    assert found.commit is None and not found.dirty


def test_before_a_first_commit(tmp_path: Path) -> None:
    put(tmp_path / "new", a_py="x")
    git(tmp_path / "new", "init", "--quiet")
    found = taken(tmp_path / "new", tmp_path / "code")
    assert there(tmp_path / "code/0") == {"a.py"} and found.commit is None and found.dirty


def test_submodules_are_taken_as_files(fork: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    put(outer, a_py="x")
    git(outer, "init", "--quiet")
    git(outer, "submodule", "--quiet", "add", str(fork), "sub")
    taken(outer, tmp_path / "code")
    assert there(tmp_path / "code/0") >= {"a.py", "sub/pkg/module.py"}
    assert "sub/.git" not in there(tmp_path / "code/0")


def test_a_submodule_that_is_not_checked_out_is_told(
    fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outer, clone = tmp_path / "outer", tmp_path / "clone"
    outer.mkdir()
    git(outer, "init", "--quiet")
    git(outer, "submodule", "--quiet", "add", str(fork), "sub")
    git(outer, "commit", "--quiet", "--message=one")
    git(tmp_path, "clone", "--quiet", str(outer), str(clone))
    taken(clone, tmp_path / "code")
    assert "sub is not checked out" in capsys.readouterr().err
    assert there(tmp_path / "code/0") == {".gitmodules"}


def test_links_are_links_and_nothing_outside_is_read(
    fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("s")
    (fork / "in.py").symlink_to("pkg/module.py")
    (fork / "out.py").symlink_to("../secret")
    (fork / "far").symlink_to(tmp_path)
    taken(fork, tmp_path / "code")
    at = tmp_path / "code/0"
    assert (
        str((at / "in.py").readlink()) == "pkg/module.py" and str((at / "out.py").readlink()) == "../secret"
    )
    assert (at / "far").is_symlink()
    assert "leads outside" in capsys.readouterr().err


def test_more_than_the_limit_names_the_largest(fork: Path, tmp_path: Path) -> None:
    (fork / "big").write_bytes(bytes(3_000_000))
    (fork / "small").write_bytes(b"x")
    with pytest.raises(InvalidFileError) as failure:
        taken(fork, tmp_path / "code", limit=2)
    assert "3.0 MB, 2 MB expected" in failure.value.message and "big (3.0 MB)" in failure.value.message
    assert failure.value.hint and ".gitignore" in failure.value.hint
    assert not (tmp_path / "code").exists()


def test_names_of_any_bytes(fork: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff'\n $(x).py")
    (fork / odd).write_text("x")
    assert taken(fork, tmp_path / "code").files == 4
    assert (tmp_path / "code/0" / odd).read_text() == "x"


def test_a_hooks_variables_do_not_mislead(
    fork: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert taken(fork, tmp_path / "code").files == 3


def test_pipes_are_left_out(fork: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    put(plain, a_py="x")
    os.mkfifo(plain / "pipe")
    assert taken(plain, tmp_path / "code").files == 1


def test_where_imports_come_from() -> None:
    both = (Code(source="/a"), Code(source="/b", imports=("lib", "src/x")))
    assert code.inside(both) == (
        "/slipworks-run/code/0", "/slipworks-run/code/1/lib", "/slipworks-run/code/1/src/x"
    )  # fmt: skip
