"""Built once: real processes ask at once, die at the worst moment, and are taken over."""

from __future__ import annotations

import multiprocessing  # fork: real processes, without importing all again in each
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest

from image_cache.claim import Claim, Owner
from image_cache.ensure import ensure, ensure_artifact
from image_cache.oci import Artifact
from image_cache.store import Store
from kit.errors import BuildError, HostError, VerifyError
from kit.nouns import Image, Platform

FORK = multiprocessing.get_context("fork")
KEY = "5" * 64
DEADLINE = 60


def put(store: Store) -> Image:
    source = store.root.parent / f"{os.getpid()}-{threading.get_ident()}.sif"
    source.write_bytes(b"abc")
    return store.put_sif(source, key=KEY, name="three-bytes", platform=Platform("amd64"))


def built(store: Store, log: Path) -> Image:
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return put(store)


def ask(root: Path, log: Path, gate: object) -> None:
    gate.wait(DEADLINE)  # type: ignore[attr-defined]
    image = ensure(Store(root), KEY, "sif", lambda: built(Store(root), log))
    assert image.path.read_bytes() == b"abc"


def hang(root: Path, ready: object) -> None:
    def never() -> Image:
        ready.set()  # type: ignore[attr-defined]
        threading.Event().wait()
        raise AssertionError

    ensure(Store(root), KEY, "sif", never)


def test_eight_processes_build_once(tmp_path: Path) -> None:
    gate, log = FORK.Barrier(8), tmp_path / "log"
    asking = [FORK.Process(target=ask, args=(tmp_path / "st ore", log, gate)) for _ in range(8)]
    for one in asking:
        one.start()
    for one in asking:
        one.join(DEADLINE)
    assert [one.exitcode for one in asking] == [0] * 8
    assert len(log.read_text().splitlines()) == 1


def ask_layer(root: Path, log: Path, gate: object) -> None:
    def build() -> Artifact:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return Store(root).put_tar(KEY, [bytes(1024)], name="nothing")

    gate.wait(DEADLINE)  # type: ignore[attr-defined]
    assert ensure_artifact(Store(root), KEY, build).path.exists()


def test_a_layer_too_is_built_once(tmp_path: Path) -> None:
    gate, log, root = FORK.Barrier(6), tmp_path / "log", tmp_path / "st ore"
    asking = [FORK.Process(target=ask_layer, args=(root, log, gate)) for _ in range(6)]
    for one in asking:
        one.start()
    for one in asking:
        one.join(DEADLINE)
    assert [one.exitcode for one in asking] == [0] * 6
    assert len(log.read_text().splitlines()) == 1
    another_host(root / "claims" / f"{'6' * 64}.layer")  # a host that was killed while it built
    store = Store(root)
    made = ensure_artifact(store, "6" * 64, lambda: store.put_tar("6" * 64, [bytes(1024)]), silence=0.2)
    assert made == store.artifact("6" * 64)


def test_a_layer_put_under_another_key_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(VerifyError, match="has nothing under"):
        ensure_artifact(store, KEY, lambda: store.put_tar("6" * 64, [bytes(1024)]))


ROUNDS = 40


def contend(folder: Path, log: Path, gate: object) -> None:
    for number in range(ROUNDS):
        claim = Claim(folder / str(number))
        gate.wait(DEADLINE)  # type: ignore[attr-defined]
        with claim.taken() as mine:
            if mine:
                with log.open("a") as file:
                    file.write(f"{number}\n")
            gate.wait(DEADLINE)  # type: ignore[attr-defined]


def test_of_many_at_once_exactly_one_gets_it(tmp_path: Path) -> None:
    gate, log = FORK.Barrier(6), tmp_path / "log"
    racing = [FORK.Process(target=contend, args=(tmp_path / "claim", log, gate)) for _ in range(6)]
    for one in racing:
        one.start()
    for one in racing:
        one.join(DEADLINE)
    assert [one.exitcode for one in racing] == [0] * 6
    assert log.read_text().splitlines() == [str(number) for number in range(ROUNDS)]


def test_a_killed_builder_is_taken_over(tmp_path: Path) -> None:
    root, log, ready = tmp_path / "store", tmp_path / "log", FORK.Event()
    builder = FORK.Process(target=hang, args=(root, ready))
    builder.start()
    assert ready.wait(DEADLINE)
    gate = FORK.Barrier(4)
    waiting = [FORK.Process(target=ask, args=(root, log, gate)) for _ in range(4)]
    for one in waiting:
        one.start()
    os.kill(builder.pid or 0, signal.SIGKILL)  # not reaped yet: a zombie counts as dead
    for one in waiting:
        one.join(DEADLINE)
    builder.join(DEADLINE)
    assert [one.exitcode for one in waiting] == [0] * 4
    assert len(log.read_text().splitlines()) == 1


def test_a_waiter_says_for_whom(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, ready = tmp_path / "store", FORK.Event()
    builder = FORK.Process(target=hang, args=(root, ready))
    builder.start()
    assert ready.wait(DEADLINE)
    waiter = threading.Thread(target=ensure, args=(Store(root), KEY, "sif", lambda: put(Store(root))))
    waiter.start()
    heard = ""
    end = time.monotonic() + DEADLINE
    while "waiting for" not in heard and time.monotonic() < end:
        heard += capfd.readouterr().err
    builder.kill()
    waiter.join(DEADLINE)
    builder.join(DEADLINE)
    assert f"waiting for process {builder.pid} on {os.uname().nodename}" in heard
    assert Store(root).find(KEY, "sif")


def test_a_hit_needs_no_claim(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image = put(store)
    assert ensure(store, KEY, "sif", lambda: pytest.fail("built again")) == image
    assert not (tmp_path / "claims").exists()


def test_a_failing_build_lets_the_next_one_try(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def fails() -> Image:
        raise BuildError("no")

    with pytest.raises(BuildError, match="no"):
        ensure(store, KEY, "sif", fails)
    assert ensure(store, KEY, "sif", lambda: put(store)).digest


def test_a_build_that_puts_nothing_is_an_error(tmp_path: Path) -> None:
    other, store = Store(tmp_path / "other"), Store(tmp_path / "store")
    with pytest.raises(VerifyError, match="has nothing under"):
        ensure(store, KEY, "sif", lambda: put(other))


def another_host(folder: Path) -> Path:
    """A claim as another host would leave it: its processes cannot be seen from here."""
    folder.mkdir(parents=True)
    owner = Owner(host="gpu17", pid=1, started=1, machine="another boot")
    (folder / "1").write_bytes(msgspec.json.encode(owner).ljust(512))
    return folder / "1"


def test_another_host_is_alive_while_its_file_changes(tmp_path: Path) -> None:
    file = another_host(tmp_path / "claim")
    claim = Claim(tmp_path / "claim", silence=0.3)
    end = time.monotonic() + 1.0
    beat = 0
    while time.monotonic() < end:
        owner = claim.holder()
        assert owner is not None and owner.host == "gpu17"
        beat += 1
        file.write_bytes(msgspec.json.encode(msgspec.structs.replace(owner, beat=beat)).ljust(512))
    while claim.holder() is not None:
        assert time.monotonic() < end + DEADLINE
    with claim.taken() as mine:
        assert mine
        assert [path.name for path in (tmp_path / "claim").iterdir()] == ["2"]


def test_ensure_takes_a_silent_host_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    another_host(store.root / "claims" / f"{KEY}.sif")
    assert ensure(store, KEY, "sif", lambda: put(store), silence=0.2).name == "three-bytes"


def test_a_file_made_but_never_written_is_a_holder_until_it_was_silent(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    claim = Claim(tmp_path, silence=0.2)
    assert claim.holder() is not None
    end = time.monotonic() + DEADLINE
    while claim.holder() is not None:
        assert time.monotonic() < end


def test_a_process_number_used_again_is_not_the_holder(tmp_path: Path) -> None:
    owner = msgspec.structs.replace(Owner.here(), started=1)
    (tmp_path / "7").write_bytes(msgspec.json.encode(owner))
    assert Claim(tmp_path).holder() is None


def test_the_holder_beats_and_lets_go(tmp_path: Path) -> None:
    claim = Claim(tmp_path, beat=0.05)
    with claim.taken() as mine:
        assert mine
        first = (tmp_path / "1").read_bytes()
        end = time.monotonic() + DEADLINE
        while (tmp_path / "1").read_bytes() == first:
            assert time.monotonic() < end
        with Claim(tmp_path).taken() as other:
            assert not other
    assert Claim(tmp_path).holder() is None


def test_a_store_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot write to the image store"):
        ensure(Store(tmp_path / "file" / "store"), KEY, "sif", lambda: pytest.fail("built"))
