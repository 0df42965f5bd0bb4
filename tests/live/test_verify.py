"""`runner image verify` from the command line: small images of real files, as layers and as a SIF."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec import json

from containers.findings import Report
from image_cache.store import Store
from kit.nouns import Image, key_of
from runner import cli, images, proof
from tests.live.needs import need
from tests.unit import parts_proof as parts
from tests.unit.parts_proof import HOST, TORCH, Files

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> list[Files]:
    """A base and a stack that pass every check."""
    base = parts.base(tmp_path_factory.mktemp("base"))
    return [base, parts.with_records(parts.stack(tmp_path_factory.mktemp("stack")))]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "it's a cache"))
    return images.store()


def labels(files: Files) -> dict[str, str]:
    return {
        "slipworks.arch": "h100", "slipworks.line": "cu13", "slipworks.python": "3.13",
        "slipworks.compute-capabilities": "9.0", "slipworks.driver-floor": "580",
        "slipworks.lock": parts.lock_digest(files),
    }  # fmt: skip


def put(store: Store, layers: list[Files], name: str, folder: Path) -> Image:
    tars = [folder / f"{name}-{number}.tar" for number, _ in enumerate(layers)]
    for tar, files in zip(tars, layers, strict=True):
        tar.write_bytes(parts.tar(files))
    bottom = store.put_root(tars[0], key=key_of({"base": name}), name=f"base-{name}", platform=HOST)
    upper = [store.put_artifact(key_of({"layer": str(tar)}), tar) for tar in tars[1:]]
    return store.put_on(bottom, upper, key=key_of({"image": name}), name=name, labels=labels(layers[1]),
                        env={"PATH": "/opt/stack/bin:/usr/bin"})  # fmt: skip


def verify(*argv: str) -> int:
    return cli.main(["image", "verify", *argv])


def test_an_image_that_passes(
    store: Store, layers: list[Files], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = put(store, layers, "right", tmp_path)
    assert verify("right") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("torch        ok        torch: a build for CUDA 13.0") for line in lines)
    assert lines[-1].startswith(f"{HOST}: ") and "failed" not in lines[-1]
    assert verify("right", "--json") == 0
    report = json.decode(capsys.readouterr().out, type=Report)
    assert report == proof.known(store, image) and not report.failed


def test_a_wrong_image_has_an_exit_code_of_its_own(
    store: Store, layers: list[Files], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {f"{TORCH}/version.py": b"cuda: Optional[str] = None\n"}
    put(store, [*layers, changed], "wrong", tmp_path)
    assert verify("wrong") == 42
    told = capsys.readouterr()
    assert "failed    torch: a CPU build" in told.out
    assert "error: wrong is not what it must be: 2 findings, the first of check packages" in told.err


def test_only_new_layers_are_read(
    store: Store, layers: list[Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})  # in this process, to be counted
    read: list[str] = []
    of_layer = proof.of_layer
    monkeypatch.setattr(proof, "of_layer", lambda *task: read.append(task[0]) or of_layer(*task))
    proof.prove(store, put(store, layers, "first", tmp_path), lambda line: None)
    assert len(read) == 2
    more = put(store, [*layers, {"slipworks/new": b"x"}], "second", tmp_path)
    assert not proof.prove(store, more, lambda line: None).report.failed
    assert len(read) == 3


def test_a_sif_is_proved_alike(
    store: Store, layers: list[Files], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tool in ("apptainer", "unsquashfs"):
        need(shutil.which(tool), f"{tool} is not installed")
    root = tmp_path / "root"
    write(root, {path: raw for each in layers for path, raw in each.items()})
    (root / ".singularity.d").mkdir()
    (root / ".singularity.d/labels.json").write_bytes(json.encode(labels(layers[1])))
    right, wrong = tmp_path / "it's right.sif", tmp_path / "wrong.sif"
    build(root, right)
    (root / TORCH / "lib/libtorch_cuda.so").unlink()
    build(root, wrong)
    as_image = proof.prove(store, put(store, layers, "same", tmp_path), lambda line: None).report
    capsys.readouterr()
    assert verify(str(right), "--json") == 0
    assert json.decode(capsys.readouterr().out, type=Report).findings == as_image.findings
    assert verify(str(wrong)) == 42
    assert "has no torch/lib/libtorch_cuda.so" in capsys.readouterr().out
    assert not list((store.root.parent / "scratch").iterdir())


def test_not_a_sif(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.sif").write_bytes(b"#!/usr/bin/env run-singularity\n" + bytes(200))
    assert verify(str(tmp_path / "no.sif")) == 11
    assert "no.sif is no SIF file" in capsys.readouterr().err


def write(root: Path, files: Files) -> None:
    links = {path: raw[3:].decode() for path, raw in files.items() if raw.startswith(b"-> ")}
    for path, target in sorted(links.items(), key=lambda each: "/" in each[0]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    for path, raw in files.items():
        if path not in links:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(raw)
            (root / path).chmod(0o755)


def build(root: Path, sif: Path) -> None:
    """apptainer takes a folder as it is; it runs nothing of it."""
    done = subprocess.run(["apptainer", "build", sif, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
