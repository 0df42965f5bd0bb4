"""runner image push, pull and sif, as a user types them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from image_cache import oci
from image_cache.registry import Registry
from image_cache.store import Store
from image_cache.transfer import pull
from kit.errors import EXIT_CODES
from kit.nouns import Platform
from runner import cli, images
from tests.live.needs import need
from tests.live.parts_pushed import tar

pytestmark = pytest.mark.live
FORK = multiprocessing.get_context("fork")
HERE = Platform.host()


def ran(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(["image", *argv])
    out, err = capsys.readouterr()
    return code, out.strip(), err


@pytest.fixture
def pushed(
    registry_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[str, Store]:
    """A reference with a tag that `push` made, and the store it came from; the user's own is empty by now."""
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "first"))
    store, target = images.store(), f"{registry_host}/test/{os.urandom(6).hex()}:v1"
    base = store.put_root(tar(tmp_path / "base.tar", "etc/hello"), key="a" * 64, name="base", platform=HERE)
    layer = store.put_tar("b" * 64, [tar(tmp_path / "x.tar", "opt/it", size=300_000).read_bytes()], name="it")
    image = store.put_on(base, [layer], key="c" * 64, name="train", env={"A": "b"})
    code, out, _ = ran(capsys, "push", "train", target)
    assert code == 0 and out == f"{target}@{image.digest}"
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "second"))
    return target, store


def test_push_pull_and_sif(
    pushed: tuple[str, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, first = pushed
    assert ran(capsys, "pull", target, "--name", "mine")[:2] == (0, "mine")
    assert ran(capsys, "pull", target)[1] == "mine"  # it is there, under the name that it has
    store = images.store()
    got = images.named("mine")
    assert got.digest == Store(first.root).find("c" * 64, "oci").digest  # type: ignore[union-attr]
    assert store.damaged(got) == [] and store.opened(got)[0].layers[1].media_type == oci.ZSTD
    other = next(arch for arch in ("amd64", "arm64") if arch != HERE.arch)
    code, _, err = ran(capsys, "pull", target, "--platform", other)
    assert code == EXIT_CODES["UnsupportedError"] and f"expected linux/{other}" in err
    need(shutil.which("apptainer"), "apptainer is not installed")
    code, out, err = ran(capsys, "sif", "mine")
    assert code == 0 and out == str(store.sif_path("mine")) and Path(out).stat().st_size > 300_000
    (told,) = [line for line in err.splitlines() if "is not an image of this kit" in line]
    assert "runner image verify mine --format sif" in told  # good for nothing, but not ours
    code, copied, _ = ran(capsys, "sif", "mine", str(tmp_path))
    assert copied == str(tmp_path / "mine.sif")
    assert Path(copied).read_bytes() == Path(out).read_bytes()
    assert {each.name for each in tmp_path.glob("mine*")} == {
        each.name for each in store.sif_folder.iterdir()
    }
    assert ran(capsys, "check", "--all")[0] == 0


def test_a_name_that_is_taken_is_told_before_anything_moves(
    pushed: tuple[str, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = images.store()
    store.put_root(tmp_path / "base.tar", key="d" * 64, name="mine", platform=HERE)
    before = set(store.blobs.iterdir())
    code, _, err = ran(capsys, "pull", pushed[0], "--name", "mine")
    assert code == EXIT_CODES["InvalidFileError"] and "the name mine" in err
    assert set(store.blobs.iterdir()) == before


def fetch(target: str, root: Path, gate: object, answer: object) -> None:
    client = Registry(target.partition("/")[0])
    gate.wait(60)  # type: ignore[attr-defined]
    pull(target, HERE, Store(root), registry=client)
    answer.put(client.counts["GET"])  # type: ignore[attr-defined]


def test_of_two_that_pull_at_once_one_does(pushed: tuple[str, Store], tmp_path: Path) -> None:
    gate, answer = FORK.Barrier(2), FORK.Queue()
    pulling = [FORK.Process(target=fetch, args=(pushed[0], tmp_path / "s", gate, answer)) for _ in "ab"]
    for one in pulling:
        one.start()
    counts = sorted(answer.get(timeout=60) for _ in pulling)
    for one in pulling:
        one.join(60)
    assert counts[1] == counts[0] + 3  # the layers and the config as blobs
