"""The journal: what it keeps through kills, who may write, what it says of a file that is not its own."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from image_cache.claim import Claim, Owner
from image_cache.prebuild import schema, turn
from image_cache.prebuild.holdings import Holdings
from image_cache.prebuild.journal import Header, Journal
from image_cache.prebuild.lists import Entry
from kit.errors import HeldError, HostError, InvalidFileError, NoSpaceError
from kit.nouns import Platform
from tests.unit.parts_prebuild import AMD64, TO, by_base, journal, want

FORK = multiprocessing.get_context("fork")
A, B, C = (f"hub:1/a/repo:{each}" for each in "abc")


def test_what_is_wanted_is_kept_once_with_all_its_names(tmp_path: Path) -> None:
    with_names = [(Entry(A, names), "hub:1", "baked/a/repo") for names in (("x",), ("y", "x"), ())]
    made = Journal(tmp_path, Header(TO, AMD64))
    assert made.add(with_names) == (3, 1)
    assert made.add([(Entry(B), "hub:1", "baked/a/repo")]) == (1, 1)
    made.close()
    again = Journal(tmp_path)
    assert [(row.base, row.state, again.names(row)) for row in again.rows()] == [
        (A, "new", ("x", "y")), (B, "new", ()),
    ]  # fmt: skip


def test_a_list_that_breaks_off_adds_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[Entry, str, str]]:
        yield Entry(B), "hub:1", "b"
        raise InvalidFileError("line 2")

    made = journal(tmp_path, A)
    with pytest.raises(InvalidFileError, match="line 2"):
        made.add(broken(), replace=True)
    assert list(by_base(made)) == [A]


def test_what_is_replaced_is_left_alone_but_not_forgotten(tmp_path: Path) -> None:
    made = journal(tmp_path, A, B)
    made.change(by_base(made)[A], state="ready", baked="sha256:x", address="z")
    want(made, B, C, replace=True)
    assert list(by_base(made)) == [B, C] and made.counts() == {"new": 2}
    assert want(made, A) == (1, 0)
    assert made.counts() == {"new": 2, "ready": 1}


def test_images_of_another_bake_are_not_ready(tmp_path: Path) -> None:
    made = journal(tmp_path, A, B)
    for base, address in ((A, "old"), (B, "new")):
        made.change(by_base(made)[base], state="ready", baked="sha256:x", address=address, look=0)
    made.settle(None)
    assert made.counts() == {"ready": 2}
    made.look_again("new", refresh=False)
    assert {base: row.state for base, row in by_base(made).items()} == {A: "to-bake", B: "ready"}
    assert made.waiting("look") == 0
    made.look_again("new", refresh=True)
    assert made.waiting("look") == 2


def test_paging_sees_all_while_they_change(tmp_path: Path) -> None:
    made = journal(tmp_path, *(f"hub:1/a/repo:{number}" for number in range(501)))
    seen = []
    for row in made.rows("state='new'"):
        made.change(row, state="ready")
        seen.append(row.base)
    assert len(seen) == len(set(seen)) == 501


def test_what_is_due_and_what_a_run_is_limited_to(tmp_path: Path) -> None:
    made = journal(tmp_path, A, B, C)
    assert made.afresh("look", 2) == 2
    assert [row.base for row in made.next("look", time.time(), 10)] == [A, B]
    made.change(by_base(made)[A], due=1e9 + 5, tries=3)
    made.change(by_base(made)[B], look=0)
    assert made.next("look", 1e9, 10) == [] and made.next_due("look") == 1e9 + 5
    assert made.afresh("look") == 2
    assert {row.base: row.tries for row in made.next("look", 0, 10)} == {A: 0, C: 0}
    made.put_off("hub:1", 1e9)
    assert made.next("look", 1e9 - 1, 10) == []


def test_documents_stay_while_they_are_needed(tmp_path: Path) -> None:
    made = journal(tmp_path, A, "reg:5000/near:1", "reg:5000/near:2")
    rows = by_base(made)
    for number, row in enumerate(rows.values()):
        made.keep(f"sha256:{number}", b"manifest" * 99, b"config")
        made.change(row, image=f"sha256:{number}", state="to-bake" if number == 2 else "ready")
    made.keep("sha256:of nobody", b"", b"")
    made.tidy("reg:5000")
    kept = [made.kept(f"sha256:{number}") for number in range(3)]
    assert kept == [(b"manifest" * 99, b"config"), None, (b"manifest" * 99, b"config")]  # far, near, open
    assert made.kept("sha256:of nobody") is None and made.kept(None) is None


def test_holdings_are_written_with_what_they_belong_to(tmp_path: Path) -> None:
    made = journal(tmp_path, A)
    known = Holdings(made.database)
    known.add("r", "d")
    assert known.has("r", "d") and known.holder("d") == "r" and not known.has("r", "e")
    assert Holdings(made.database).holder("d") is None
    known.flush()
    other = Holdings(made.database)
    assert other.has("r", "d") and other.holder("d") == "r"
    other.forget("r", "d")
    assert not known.has("r", "d") and Holdings(made.database).holder("d") is None


def test_a_holder_stays_the_same_until_it_is_forgotten(tmp_path: Path) -> None:
    """Else who mounts from it needs a token for another one each time."""
    known = Holdings(journal(tmp_path, A).database)
    named = set()
    for number in range(50):
        known.add(f"r{number:02}", "d")
        named.add(known.holder("d"))
        known.flush()
    assert named == {"r00"}
    known.forget("r00", "d")
    assert known.holder("d") not in ("r00", None)


# -- files that are not as they should be --------------------------------------------------------------------


def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    journal(tmp_path, A).close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as raw:
        raw.execute(f"PRAGMA user_version={schema.VERSION + 1}")
    raw.close()
    with pytest.raises(InvalidFileError, match=f"has schema {schema.VERSION + 1}: this kit writes") as told:
        Journal(tmp_path)
    assert told.value.hint and "--journal" in told.value.hint


@pytest.mark.parametrize("made", ["garbage", "another"])
def test_another_file_is_refused(tmp_path: Path, made: str) -> None:
    path = tmp_path / "journal.sqlite"
    if made == "garbage":
        path.write_bytes(b"not a database" * 1000)
    else:
        with sqlite3.connect(path) as raw:
            raw.execute("CREATE TABLE x (y)")
        raw.close()
    with pytest.raises(InvalidFileError, match="no journal"):
        Journal(tmp_path, Header(TO, AMD64))


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    journal(tmp_path, A).close()
    for other in (Header("reg:5000/other", AMD64), Header(TO, Platform("arm64"))):
        with pytest.raises(InvalidFileError, match="is of reg:5000/baked for linux/amd64"):
            Journal(tmp_path, other)
    with pytest.raises(InvalidFileError, match="holds no prebuild"):
        Journal(tmp_path / "none")


def test_a_full_disk_and_a_closed_journal_are_told(tmp_path: Path) -> None:
    made = journal(tmp_path, A)
    made.database.run("PRAGMA max_page_count=1")
    with pytest.raises(NoSpaceError, match="no space left"):
        want(made, *(f"hub:1/a/{'x' * 100}:{number}" for number in range(2000)))
    assert list(by_base(made)) == [A]
    made.close()
    with pytest.raises(HostError, match="failed: Cannot operate on a closed database"):
        made.total()


# -- killed --------------------------------------------------------------------------------------------------


def busy(folder: Path, ready: object) -> None:
    """Does images as fast as it can: each has its blobs and its state in one commit."""
    made = Journal(folder)
    known = Holdings(made.database)
    ready.set()  # type: ignore[attr-defined]
    for row in made.rows("state='new'"):
        made.begin(row)
        with made.database.transaction():
            known.add("r", f"of {row.id}")
            known.flush()
            made.change(row, state="ready", baked=f"sha256:{row.id}", ended=1.0)


def test_killed_at_any_moment_every_image_is_as_before_or_done(tmp_path: Path) -> None:
    made = journal(tmp_path, *(f"hub:1/a/repo:{number}" for number in range(3000)))
    dice = random.Random(7)
    for _ in range(8):
        ready = FORK.Event()
        child = FORK.Process(target=busy, args=(tmp_path, ready))
        child.start()
        assert ready.wait(30)
        time.sleep(dice.uniform(0, 0.06))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        assert made.database.one("PRAGMA integrity_check") == ("ok",)
    done = {row.id for row in made.rows("state='ready'")}
    blobs = {int(name.split()[1]) for (name,) in made.database.all("SELECT digest FROM blobs")}
    begun = [row for row in made.rows("state='new' AND begun IS NOT NULL")]
    assert done == blobs and len(done) > 0 and len(begun) <= 8
    assert sum(made.counts().values()) == 3000


# -- one at a time -------------------------------------------------------------------------------------------


def test_a_second_process_of_this_host_is_refused_by_name(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from image_cache.prebuild import turn\n"
        "with turn.held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdin and other.stdout.readline() == "held\n"
        with pytest.raises(HeldError) as told, turn.held(tmp_path):
            pass
        assert f"by process {other.pid} on {os.uname().nodename}: it is alive" in told.value.message
        turn.readable(tmp_path)  # to read is allowed here
        assert turn.holder(tmp_path)
        other.kill()
        other.wait()
    with turn.held(tmp_path):  # dead: at once
        pass
    assert turn.holder(tmp_path) is None


def claimed(folder: Path, beat: int) -> None:
    owner = Owner(host="node-17", pid=4242, started=1, machine="another machine", beat=beat)
    (folder / "claim").mkdir(exist_ok=True)
    (folder / "claim" / "1").write_bytes(msgspec.json.encode(owner).ljust(512))


def test_a_second_host_is_refused_with_the_holders_sign_of_life(tmp_path: Path) -> None:
    claimed(tmp_path, beat=7)
    beating = threading.Timer(0.3, claimed, (tmp_path, 8))
    beating.start()
    with pytest.raises(HeldError) as told, turn.held(tmp_path, silence=20, beat=0.2):
        pass
    assert "by process 4242 on node-17: it gave a sign of life just now (heartbeat 8)" in told.value.message
    assert told.value.hint == "wait until it ends, or on node-17: kill 4242"
    threading.Timer(0.3, claimed, (tmp_path, 9)).start()
    with pytest.raises(HeldError):
        turn.readable(tmp_path, silence=20, beat=0.2)


def test_a_silent_holder_on_another_host_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claimed(tmp_path, beat=7)
    with turn.held(tmp_path, silence=0.5, beat=0.2):
        assert Claim(tmp_path / "claim").holder()
    assert "process 4242 on node-17 had" in capsys.readouterr().err
