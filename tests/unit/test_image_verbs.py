"""runner image list, gc, pin, check: what they print and answer."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal

import pytest

from containers.findings import Finding, Report
from image_cache.store import KEEP_DAYS, Store
from kit.errors import EXIT_CODES
from kit.nouns import Image
from runner import cli, images, proof, shelf
from runner.planning import Wanted
from tests.unit.parts_images import AMD64, KEY, OTHER, tar_of


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A user's store with a base, an image on it, and a SIF of that; all made now."""
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path / "the cache"))
    store = images.store()
    (tmp_path / "root.tar").write_bytes(tar_of({"a": b"b"}))
    base = store.put_root(tmp_path / "root.tar", key=OTHER, name="base", platform=AMD64)
    layer = store.put_tar("c" * 64, [tar_of({"x": os.urandom(40_000)})], name="stack torch")
    labels = {"slipworks.verified": "passed"}
    store.put_on(base, [layer], key=KEY, name="train", labels=labels)
    (tmp_path / "x").write_bytes(b"sif")
    store.put_sif(tmp_path / "x", key=KEY, name="train", platform=AMD64)
    return store


def ran(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], list[str]]:
    code = cli.main(["image", *argv])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def grown_old(store: Store) -> None:
    for path in store.root.rglob("*"):
        os.utime(path, (10**9, 10**9))


def of(store: Store, name: str) -> Image:
    return next(image for image in store.list() if (image.name, image.format) == (name, "oci"))


def kept(store: Store, image: Image, status: Literal["ok", "failed"]) -> None:
    """As if a proof had been made."""
    found = Finding(check="x", status=status, subject="it", found="y")
    proof.keep(store, image, Report(platform="linux/amd64", findings=(found,)))


def test_list(shop: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "pin", "train", "--format", "oci") == (0, ["train (oci) is pinned"], [])
    code, lines, _ = ran(capsys, "list")
    assert code == 0 and [line.split()[0] for line in lines] == ["NAME", "base", "train", "train"]
    assert lines[0].split() == list(shelf.HEADS)
    train = lines[2].split()
    assert train[1:3] == ["oci", "linux/amd64"] and train[4] == "kB" and 40 < int(train[3]) < 44
    assert train[-4:] == ["yes", "says", "so", of(shop, "train").digest[:19]]  # no proof of ours
    rows = json.loads(ran(capsys, "list", "--json")[1] and "".join(ran(capsys, "list", "--json")[1]))
    assert [(row["pinned"], row["verified"], row["said"], row["size"] > 2) for row in rows] == [
        (False, None, None, True), (True, None, True, True), (False, None, None, True)
    ]  # fmt: skip
    kept(shop, of(shop, "train"), "ok")
    assert ran(capsys, "list")[1][2].split()[-2] == "yes"
    kept(shop, of(shop, "train"), "failed")
    assert ran(capsys, "list")[1][2].split()[-2] == "FAILED"
    assert ran(capsys, "pin", "train", "--format", "oci", "--remove")[1] == ["train (oci) is not pinned"]
    assert not shop.pins.has(KEY, "oci")


@pytest.mark.parametrize("days, words", [(0, "0 min"), (0.05, "72 min"), (0.5, "12 h"), (3.2, "3 d")])
def test_ages(days: float, words: str) -> None:
    assert shelf.age(days) == words


def test_gc(shop: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "gc")[1] == ["freed 0 B"]
    grown_old(shop)
    cli.main(["image", "pin", "base"])
    capsys.readouterr()
    before = {path for path in shop.root.rglob("*")}
    code, lines, _ = ran(capsys, "gc", "--dry-run")
    assert code == 0 and before == {path for path in shop.root.rglob("*")}
    assert [line.split()[0] for line in lines] == ["image", "image", "layer", "sif", "blob", "would"]
    assert lines[2].endswith("stack torch cccccccccccc") and "train (oci)" in lines[0]
    planned = json.loads("\n".join(ran(capsys, "gc", "--dry-run", "--json")[1]))
    assert {each["kind"] for each in planned["garbage"]} == {"layer", "image", "sif", "blob"}
    done = ran(capsys, "gc")[1]
    assert done[:-1] == lines[:-1] and done[-1] == lines[-1].replace("would free", "freed")
    assert [image.name for image in shop.list()] == ["base"]
    assert ran(capsys, "gc", "--keep-days", "0")[1] == ["freed 0 B"]
    assert ran(capsys, "gc", "--keep-days", "-1")[0] == EXIT_CODES["UsageError"]


def test_gc_says_what_it_holds_back_and_until_when(shop: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "gc", "--keep-days", "0")
    assert (code, out) == (0, ["freed 0 B"])
    (told,) = err
    assert re.fullmatch(r"kept: 4\d kB younger than an hour, .* after \d\d:\d\d, this would free it", told)


def test_check_names_what_is_damaged_and_heals(shop: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "check", "--all")[:2] == (0, ["all files are what their digests say"])
    blob = shop.blob(shop.opened(of(shop, "train"))[0].layers[1].digest)
    raw = blob.read_bytes()
    blob.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert shop.find(KEY, "oci")  # of the same size: only its hash tells
    assert ran(capsys, "check", "base")[0] == 0
    code, out, err = ran(capsys, "check", "train", "--format", "oci")
    assert (
        code == EXIT_CODES["VerifyError"]
        and "hint: runner image check train --format oci --remove" in err[-1]
    )
    code, out, err = ran(capsys, "check", "--all")
    assert code == EXIT_CODES["VerifyError"] and len(out) == 1
    assert str(blob) in out[0] and out[0].endswith("needed by train, the layer stack torch cccccccccccc")
    assert ran(capsys, "check", "--all", "--remove")[0] == 0
    assert not blob.exists() and shop.find(KEY, "oci") is None and shop.artifact("c" * 64) is None
    assert ran(capsys, "check")[0] == EXIT_CODES["UsageError"]


def test_a_damaged_image_is_not_pushed(shop: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shop.blob(shop.opened(of(shop, "base"))[0].layers[0].digest).unlink()
    code, _, err = ran(capsys, "push", "base", "127.0.0.1:1/x:y")
    assert code == EXIT_CODES["VerifyError"] and err[-1] == "hint: runner image check base"


def test_what_is_not_proved_is_not_pushed(shop: Store, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"slipworks.line": "cpu"}
    draft = shop.put_on(of(shop, "base"), [], key="d" * 64, name="unproved-it", labels=labels)
    push = ("push", "unproved-it", "127.0.0.1:1/x:y")
    refused = EXIT_CODES["VerifyError"]
    assert ran(capsys, *push) == (refused, [], [
        "error: unproved-it is not pushed: no proof of it has passed",
        "hint: runner image verify unproved-it",
    ])  # fmt: skip
    kept(shop, draft, "failed")
    assert ran(capsys, *push)[0] == refused
    kept(shop, draft, "ok")
    assert ran(capsys, *push)[0] == EXIT_CODES["NetworkError"]  # nobody listens there
    labels["slipworks.verified"] = "passed"
    shop.put_on(of(shop, "base"), [], key="e" * 64, name="pulled", labels=labels)
    assert ran(capsys, "push", "pulled", push[2])[0] == EXIT_CODES["NetworkError"]
    assert ran(capsys, "push", "base", push[2])[0] == EXIT_CODES["NetworkError"]  # not of this kit


@pytest.mark.parametrize("words", [
    ("pull", ""), ("pull", "a b"), ("pull", "a\nb"), ("pull", "x@sha256:12"), ("push", "base", ""),
    ("push", "base", "A\nb"), ("pull", "x", "--name", "a\nb"),
])  # fmt: skip
def test_what_is_no_reference_is_told_first_and_with_a_hint(
    words: tuple[str, ...], shop: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ran(capsys, *words)
    assert code == EXIT_CODES["InvalidFileError"] and out == []
    assert [line.partition(" ")[0] for line in err] == ["error:", "hint:"]


@pytest.mark.parametrize("text", ["", "s", "bas", "sha256:", "sha256:a", "aaa"])
def test_a_beginning_is_long_enough_to_be_meant(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing would name the only image that there is."""
    monkeypatch.setenv("SLIPWORKS_CACHE", str(tmp_path))
    (tmp_path / "root.tar").write_bytes(tar_of({}))
    images.store().put_root(tmp_path / "root.tar", key=KEY, name="base", platform=AMD64)
    for words in (["pin", text], ["check", "--remove", text], ["push", text, "127.0.0.1:1/x:y"]):
        code, _, err = ran(capsys, *words)
        assert code == EXIT_CODES["UsageError"] and "4 characters" in err[0], words
        assert err[1] == "hint: runner image list"
    assert images.named("aaaa").name == "base"
    images.store().put_root(tmp_path / "root.tar", key=OTHER, name="it", platform=AMD64)
    assert images.named("it").key == OTHER


@pytest.mark.parametrize("words", [
    *(["build", "cpu", f"--{option}", ""] for option in ("line", "base", "platform", "engine")),
    ["key", "cpu", "--line", " "], ["pull", "x", "--platform="], ["pull", "x", "--name="],
])  # fmt: skip
def test_an_option_with_nothing_is_not_its_default(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ran(capsys, *words)
    assert code == EXIT_CODES["UsageError"] and "expected a value, found '" in err[0]


def test_a_dry_run_by_definition(
    shop: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(images, "check", lambda *words: asked.append(words))
    told = ran(capsys, "build", "cpu", "--dry-run")[1]
    code, defined, err = ran(capsys, "build", "cpu", "--dry-run", "--by", "definition")
    recipe = images.planned(Wanted(arch="cpu", defined=True))
    assert code == 0 and "\n".join(defined).strip() == recipe.apptainer_def.strip()
    assert recipe.name in err[-1] and "\n".join(told) != "\n".join(defined)
    assert asked == [(None, None, None), (None, "sif", None)]
    code, _, err = ran(capsys, "build", "cpu", "--dry-run", "--by", "definition", "--format", "oci")
    assert code == EXIT_CODES["UsageError"]
    assert err[1] == "hint: runner image build cpu --by definition --format sif"


def test_a_whole_name_is_no_beginning(shop: Store, tmp_path: Path) -> None:
    shop.put_root(tmp_path / "root.tar", key="d" * 64, name="base-2", platform=AMD64)
    assert images.named("base").name == "base"


def test_the_default_of_gc_is_the_stores() -> None:
    """The command writes it out, because importing the store is slow; a full disk's hint counts with it."""
    assert cli.parsed(["image", "gc"]).keep_days == KEEP_DAYS


def test_a_newline_in_a_files_name_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "show", "a\nb.sif")[2] == [
        r"error: 'a\nb.sif' is not a file",
        "hint: runner image list",
    ]
