"""Snapshots of the user's own checkouts: what a job runs is what lay there when it was submitted.

Of a git checkout all files are taken that git knows or would offer to add, submodules' too; of another folder
all that its .gitignore does not name. Nothing outside the folder is read: links are kept as links.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct, json
from msgspec.structs import replace

from kit import files, process, say, shell
from kit.errors import InvalidFileError
from kit.process import Result
from runner.job import Code
from runner.runs import INSIDE

AT_ONCE = 8  # files that are written at the same time: most of it is waiting for the disk
NAMED = 3  # largest files that a refusal names


class Snapshot(Struct, frozen=True, kw_only=True):
    """What was taken. commit: None outside git, or before a first commit; dirty: something differs from it.

    untracked  files that no commit has and git does not ignore; bytes: of all files.
    """

    source: str
    commit: str | None
    dirty: bool
    untracked: int
    files: int
    bytes: int

    @property
    def told(self) -> str:
        """One line for people."""
        state = f"commit {self.commit[:12]}" if self.commit else "without a commit"
        changed = ", with changes of yours" if self.dirty and self.commit else ""
        return f"{self.source}, {state}{changed}: {self.files} files, {self.bytes / 1e6:.1f} MB"


class Entry(Struct, frozen=True):
    """A file or link that is to be taken; `name` is relative to the source."""

    name: str
    size: int
    mode: int


class Listed(Struct, frozen=True, kw_only=True):
    """A source that was looked at: nothing was read of the files themselves yet."""

    code: Code
    entries: tuple[Entry, ...]
    commit: str | None = None
    untracked: int = 0


def inside(codes: Sequence[Code]) -> tuple[str, ...]:
    """The folders, inside the containers, that come first on the import path."""
    return tuple(
        str(PurePosixPath(INSIDE, "code", str(number), folder))
        for number, each in enumerate(codes)
        for folder in each.imports
    )


def listed(code: Code) -> Listed:
    """What would be taken. InvalidFileError, naming the largest files, where it is more than the limit."""
    source = Path(code.source)
    found = _git_names(source)
    names = found[0] if found else list(_plain_names(source))
    entries = tuple(entry for name in names if (entry := _entry(source, name)))
    _check_size(code, entries)
    outside = [each.name for each in entries if stat.S_ISLNK(each.mode) and _leads_out(source, each.name)]
    if outside:
        more = f", and {len(outside) - 1} more" if len(outside) > 1 else ""
        say.say(f"note: {source}: {outside[0]!r}{more} leads outside: a link is taken, not what it names")
    return Listed(
        code=code, entries=entries, commit=found[1] if found else None, untracked=found[2] if found else 0
    )


def take(what: Listed, folder: Path, number: int) -> Snapshot:
    """Copies it to folder/<number>, with folder/<number>.json and, where a commit was changed, .diff beside.

    Atomic: the copy appears whole and synced. Modes and times are kept. A file that went since is left out.
    """
    from concurrent.futures import ThreadPoolExecutor

    source, place = Path(what.code.source), folder / str(number)
    with files.beside(place) as made, files.space_named(place):
        made.mkdir()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sizes = list(pool.map(lambda each: _copy(source, made, each), what.entries))
        files.settle(made, place)
    dirty = what.untracked > 0
    if what.commit:
        dirty = _write_diff(source, folder / f"{number}.diff") or dirty
    taken = [size for size in sizes if size is not None]
    snapshot = Snapshot(
        source=what.code.source, commit=what.commit, dirty=dirty, untracked=what.untracked,
        files=len(taken), bytes=sum(taken),
    )  # fmt: skip
    files.write(folder / f"{number}.json", json.format(json.encode(_told(snapshot))))
    return snapshot


def _told(snapshot: Snapshot) -> Snapshot:
    """JSON carries text alone: of a path that is none, what can be read."""
    return replace(snapshot, source=os.fsencode(snapshot.source).decode("utf-8", "replace"))


def _git_names(source: Path) -> tuple[list[str], str | None, int] | None:
    """Names, commit and the number of untracked files; None where no git repository has anything here."""
    if shutil.which("git") is None:
        if (source / ".git").exists():
            say.say(f"note: git is not here: {source} is taken whole, with what its .gitignore names")
        return None
    inside = _git(source, "rev-parse", "--is-inside-work-tree", check=False)
    if inside.code:
        if "dubious ownership" in inside.err:
            raise InvalidFileError(
                f"git does not trust {source}, which belongs to another user",
                shell.line(["git", "config", "--global", "--add", "safe.directory", str(source)]),
            )
        return _ignoring(source)
    if inside.out.strip() != "true":
        return None
    tracked, others = _names(source, "--cached"), _names(source, "--others")
    if not tracked and not others:  # a folder that the repository around it ignores
        return _ignoring(source)
    head = _git(source, "rev-parse", "--verify", "--quiet", "HEAD", check=False).out.strip()
    names = [name for each in dict.fromkeys([*tracked, *others]) for name in _below(source, each)]
    return names, head or None, len(others)


def _ignoring(source: Path) -> tuple[list[str], None, int] | None:
    """The names of a folder outside git that its .gitignore files do not name."""
    if not (source / ".gitignore").exists():
        return None
    import tempfile

    with tempfile.TemporaryDirectory(prefix="slipworks-git-") as empty:
        _git(Path(empty), "init", "--quiet", "--bare", ".")
        words = (f"--git-dir={empty}", f"--work-tree={source}")
        return _names(source, "--others", words), None, 0


def _names(source: Path, which: str, first: Sequence[str] = ()) -> list[str]:
    told = _git(source, *first, "ls-files", "-z", "--exclude-standard", which)
    return [name for name in told.out.split("\0") if name]


def _below(source: Path, name: str) -> Iterator[str]:
    """The name itself; of a submodule, or a repository inside this one, the names of its files."""
    path = source / name
    if path.is_symlink() or not path.is_dir():
        yield name
        return
    if not (path / ".git").exists():
        say.say(f"note: the submodule {path} is not checked out: its folder is left out of the snapshot")
        return
    found = _git_names(path)
    yield from (f"{name.rstrip('/')}/{each}" for each in (found[0] if found else ()))


def _plain_names(source: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(each for each in folders if each not in (".git", "__pycache__"))
        at = Path(folder)
        links = [each for each in folders if (at / each).is_symlink()]
        yield from (str((at / each).relative_to(source)) for each in sorted([*names, *links]))


def _entry(source: Path, name: str) -> Entry | None:
    """None for what is gone (deleted, and not yet from git's index), and for devices, pipes and sockets."""
    try:
        told = (source / name).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(told.st_mode):
        return Entry(name, told.st_size, told.st_mode)
    if stat.S_ISLNK(told.st_mode):
        return Entry(name, 0, told.st_mode)
    say.say(f"note: {source / name} is neither file nor link: it is left out of the snapshot")
    return None


def _check_size(code: Code, entries: Sequence[Entry]) -> None:
    size = sum(each.size for each in entries)
    if size <= code.limit * 1_000_000:
        return
    largest = sorted(entries, key=lambda each: -each.size)[:NAMED]
    told = ", ".join(f"{each.name} ({each.size / 1e6:.1f} MB)" for each in largest)
    raise InvalidFileError(
        f"the code in {code.source} has {size / 1e6:.1f} MB, {code.limit} MB expected at most; the largest: "
        f"{told}",
        f"name them in {code.source}/.gitignore, or say {{source: …, limit: {int(size / 1e6) + 1}}}",
    )


def _leads_out(source: Path, name: str) -> bool:
    target = str((source / name).readlink())
    there = os.path.normpath(PurePosixPath(name).parent / target)
    return target.startswith("/") or there == ".." or there.startswith("../")


def _copy(source: Path, to: Path, entry: Entry) -> int | None:
    """One file or link, synced; its size, or None if it is gone."""
    path, target = source / entry.name, to / entry.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(entry.mode):
        target.symlink_to(path.readlink())
        return 0
    try:
        # Not a link that took its place meanwhile: that could lead anywhere.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as closed:
        raise InvalidFileError(f"cannot read {path} for the snapshot: {closed.strerror}") from closed
    with os.fdopen(descriptor, "rb") as file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        told = os.fstat(file.fileno())
        os.fchmod(copy.fileno(), stat.S_IMODE(entry.mode) & 0o777)
        os.utime(copy.fileno(), ns=(told.st_mtime_ns, told.st_mtime_ns))
        os.fsync(copy.fileno())
        return os.fstat(copy.fileno()).st_size


def _write_diff(source: Path, path: Path) -> bool:
    """What differs from the commit, as `git apply` takes it; False, and no file, where nothing does."""
    with files.beside(path) as made:
        made.touch()
        words = ("diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", f"--output={made}")
        _git(source, *words, "HEAD", "--", ".")
        if not made.stat().st_size:
            return False
        files.settle(made, path)
    return True


def _git(source: Path, *words: str, check: bool = True) -> Result:
    """git, asked in a folder; its names are bytes of any kind, so they come as `os.fsdecode` has them."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env = {**plain, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    argv = ["git", "-c", "core.quotepath=off", *words]
    return process.run(argv, what=f"ask git for {source}", env=env, cwd=source, check=check,
                       error=InvalidFileError, errors="surrogateescape")  # fmt: skip
