"""Builds that are killed, full disks and late proofs: a hit always has its record, and the newest one."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from containers.findings import Finding
from containers.inventory import Inventory
from definitions import layers
from image_cache.store import Store
from kit.errors import EXIT_CODES, InvalidFileError, NoSpaceError, VerifyError
from kit.nouns import Image, Recipe, digest
from runner import building, cli, finishing, images, known, proof, record, scratch
from runner.proof import Proved
from tests.unit.parts_images import tar_of
from tests.unit.test_image_store_deaths import killed_at_every_step
from tests.unit.test_record import ARM64, GCC, REPORT, STATUS, Shop, recipe, shop, with_sif

__all__ = ["shop"]

BAD = replace(REPORT, findings=(Finding(check="torch", status="failed", subject="torch", found="a CPU build",
                                        expected="CUDA 13.0"),))  # fmt: skip
OWN = layers.load("slipworks")
KEYS = ("2" * 64, "3" * 64, "4" * 64)


@pytest.fixture(autouse=True)
def proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of these images, which hold nothing, pass."""

    def prove(store: Store, image: Image, update: object) -> Any:
        proof.keep(store, image, REPORT)
        return Proved(REPORT, [])

    def file_image(path: Path) -> Image:
        found = digest(path.read_bytes())
        return Image(key=found, name=path.stem, format="sif", platform=ARM64, digest=found, path=path)

    monkeypatch.setattr(proof, "prove", prove)
    monkeypatch.setattr(proof, "file_image", file_image)


class Apptainer:
    def check(self) -> str:
        return "1.4.5"

    def convert(self, image: Image, out: Path, update: object) -> None:
        out.write_bytes(b"a sif")


def whole(root: Path, folder: Path) -> Store:
    """A store with all that an image is made of."""
    store = Store(root)
    (folder / "base.tar").write_bytes(tar_of({"lib/dpkg/status": STATUS}, "var"))
    store.put_root(folder / "base.tar", key="1" * 64, name="base", platform=ARM64)
    tars = {"system": tar_of({"lib/dpkg/status": GCC}, "var"), "stack rest": tar_of({"a": b"a"}, "opt/stack"),
            "slipworks": tar_of({"a": b"a"})}  # fmt: skip
    for key, (name, tar) in zip(KEYS, tars.items(), strict=True):
        own = store.put_tar(key, [tar], name=name)
    store.put_note(own.diff_id, record.TAKEN, json.dumps({"libc6": "9 sha256:" + "9" * 64}).encode())
    return store


def planned(store: Store) -> Recipe:
    base = store.find("1" * 64, "oci")
    assert base
    return recipe(base)


def assembled(root: Path) -> Image:
    store = Store(root)
    base, wanted = store.find("1" * 64, "oci"), planned(store)
    made = [found for key in KEYS if (found := store.artifact(key))]
    assert base and len(made) == 3
    return store.find(wanted.key, "oci") or finishing.put_together(wanted, OWN, base, made, store)


def converted(root: Path) -> Image:
    store = Store(root)
    image = store.find(planned(store).key, "oci")
    assert image
    return building.converted(image, store)


def defined(root: Path) -> Image:
    store = Store(root)
    wanted = planned(store)

    def tell(made: Image, found: Proved) -> None:
        finishing.record_defined(wanted, OWN, made, found, "1.4.5", store)

    out = store.root / ".out.tmp"
    out.write_bytes(b"a sif")
    return store.find(wanted.key, "sif") or finishing.put_sif(out, wanted, store, tell)


@pytest.mark.parametrize("act", [assembled, converted, defined])
def test_killed_at_every_step_a_hit_has_its_record(
    act: Callable[[Path], Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "Apptainer", Apptainer)
    monkeypatch.setattr(building, "ensure", lambda store, key, kind, build: store.find(key, kind) or build())
    start = whole(tmp_path / "store", tmp_path)
    if act is converted:
        assembled(start.root)
    key = planned(start).key
    for root in killed_at_every_step(act, start.root, tmp_path):
        for last in (False, True):
            if last:
                act(root)
            store = Store(root)
            found = [image for kind in ("oci", "sif") if (image := store.find(key, kind))]
            assert found or not last
            for image in found:
                about = known.of(store, image)
                assert about.recorded and about.bill and about.record.proof and about.record.proof.passed
                hits = {each.format for each in found}
                if about.record.sif is None or "sif" in hits:
                    assert about.wrong == () and (about.record.sif is not None) == ("sif" in hits)
        assert not [image for image in store.list() if image.name.startswith("unproved-")]


def test_a_layer_has_its_packages_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tar = Store(tmp_path / "store"), tar_of({"a": b"a"})
    store.root.mkdir()
    (tmp_path / "tar").write_bytes(tar)
    made = []

    def build(
        spec: object, platform: object, out: Path, update: object, pulled: object, keep: object
    ) -> SimpleNamespace:
        out.write_bytes(tar)
        made.append(out)
        return SimpleNamespace(diff_id=digest(tar), packages={"libc6": "9"})

    def act(root: Path) -> None:
        building.layer_artifact(OWN, ARM64, Store(root))

    def find_or_build(store: Store, key: str, kind: str, find: Any, build: Any) -> Any:
        return find() or build()

    monkeypatch.setattr(building.layer, "build", build)
    monkeypatch.setattr(building.layer, "key", lambda spec, platform: KEYS[2])
    monkeypatch.setattr(building, "once_only", find_or_build)
    for root in killed_at_every_step(act, store.root, tmp_path):
        if found := Store(root).artifact(KEYS[2]):
            assert Store(root).note(found.diff_id, record.TAKEN) == b'{"libc6":"9"}'
    act(store.root)
    act(store.root)
    assert len(made) == 1
    store.notes.path(digest(tar), record.TAKEN).unlink()  # as an older kit left it, when it was killed
    act(store.root)
    assert len(made) == 2 and store.note(digest(tar), record.TAKEN)


def told_of(shop: Shop, image: Image) -> bool:
    found = known.of(shop.store, image).record.proof
    assert found
    return found.passed


def test_a_late_proof_is_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of its own: the image, and the SIF that was made of it."""
    sif = with_sif(shop)
    verify = ["image", "verify", shop.image.name, "--format"]
    with monkeypatch.context() as patch:
        patch.setattr(proof, "prove", lambda *any: Proved(BAD, []))
        assert cli.main([*verify, "oci"]) == EXIT_CODES["VerifyError"]
    err = capsys.readouterr().err
    assert err.endswith(f"hint: runner image verify {shop.image.name} --format oci --json\n")
    assert (told_of(shop, shop.image), told_of(shop, sif)) == (False, True)
    assert cli.main([*verify, "oci"]) == 0 and told_of(shop, shop.image)
    monkeypatch.setattr(proof, "prove", lambda *any: Proved(BAD, []))
    assert cli.main([*verify, "sif"]) == EXIT_CODES["VerifyError"]
    assert (told_of(shop, shop.image), told_of(shop, sif)) == (True, False)


def test_a_file_is_named_by_its_path(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proof, "prove", lambda *any: Proved(BAD, []))
    path = tmp_path / "it's a.sif"
    for name in (str(path), "no.sif"):
        assert cli.main(["image", "verify", name]) == EXIT_CODES["NotFoundError"]
        err = capsys.readouterr().err
        assert f"{name!r} is not a file" in err and "hint: runner image list" in err
    path.write_bytes(b"a sif")
    assert cli.main(["image", "verify", str(path)]) == EXIT_CODES["VerifyError"]
    quoted = str(path).replace("'", "'\"'\"'")
    assert f"hint: runner image verify '{quoted}' --json\n" in capsys.readouterr().err


DEVICE = "create_inode: could not create character device o/dev/null, because you're not superuser!"
NO_CAPABILITY = "create_inode: failed to create block device o/dev/sda, because Operation not permitted"
OWNER = "create_inode: failed to change uid and gids on o/x, because Operation not permitted"
FULL = "Write on output file failed because No space left on device"
FULL_FOLDER = "create_inode: failed to create character device o/dev/null, because No space left on device"


def unsquashed(shop: Shop, folder: Path, patch: pytest.MonkeyPatch, code: int, told: str) -> Image:
    """A SIF whose unpacking by a stand-in for unsquashfs ends so; read by the real proof."""
    patch.undo()  # of `proofs`
    patch.setenv("SLIPWORKS_CACHE", str(shop.store.root.parent))
    patch.setenv("TOLD", told)
    patch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    patch.setattr(proof.sif_parts, "root", lambda path: SimpleNamespace(offset=0))
    patch.setattr(Store, "space_hint", lambda self: "runner image gc")
    program = folder / "unsquashfs"
    program.write_text(
        '#!/bin/sh\nwhile [ "$1" != -dest ]; do shift; done\nmkdir "$2"\nprintf x > "$2/x"\n'
        f'printf "%s\\n" "$TOLD" >&2\nexit {code}\n'
    )
    program.chmod(0o755)
    return with_sif(shop)


def read(shop: Shop, sif: Image) -> list[Inventory]:
    return proof.inventories(shop.store, sif, lambda line: None)


@pytest.mark.parametrize(
    ("code", "told"), [(0, ""), (2, DEVICE), (2, f"{DEVICE}\n\n{NO_CAPABILITY}\n{OWNER}")]
)
def test_devices_are_not_asked_for(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str
) -> None:
    sif = unsquashed(shop, tmp_path, monkeypatch, code, told)
    assert len(read(shop, sif)) == 1 and shop.store.note(sif.digest, proof.NOTE)


@pytest.mark.parametrize(
    ("code", "told", "error"),
    [
        (1, FULL, NoSpaceError),
        (2, f"{DEVICE}\n{FULL_FOLDER}", NoSpaceError),
        (2, f"{DEVICE}\nwriter: failed to write file o/x", InvalidFileError),
        (2, "", InvalidFileError),
        (1, DEVICE, InvalidFileError),
    ],
)
def test_what_is_cut_short_is_not_read(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str, error: type[Exception]
) -> None:
    sif = unsquashed(shop, tmp_path, monkeypatch, code, told)
    with pytest.raises(error) as caught:
        read(shop, sif)
    assert shop.store.note(sif.digest, proof.NOTE) is None
    if isinstance(caught.value, NoSpaceError):
        assert caught.value.hint == "runner image gc"
    assert not list((shop.store.root.parent / "scratch").iterdir())


def test_a_full_scratch_folder(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    hints = ["runner image gc  # would free 9 MB", None]
    monkeypatch.setattr(Store, "space_hint", lambda self: hints.pop(0))
    above = images.store().root.parent / "scratch"
    for expected in ("runner image gc  # would free 9 MB", f"df -h {above}"):
        with pytest.raises(NoSpaceError) as full, scratch.folder(shop.store, "x-") as folder:
            assert folder.parent == above
            raise OSError(errno.ENOSPC, "full")
        assert full.value.hint == expected and not list(above.iterdir())
    with (
        pytest.raises(PermissionError),
        scratch.folder(shop.store, "x-"),
    ):
        raise PermissionError(errno.EACCES, "no")  # of something else: not ours to tell


def test_the_hint_of_a_failed_sif(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is gone: what it was made of can be looked at, if that is an image."""
    monkeypatch.setattr(proof, "prove", lambda *any: Proved(BAD, []))
    name = shop.image.name
    ours = replace(shop.image, labels={**shop.image.labels, finishing.OURS: "cu13"})
    wanted = replace(shop.recipe, labels={**shop.recipe.labels, finishing.OURS: "cu13"})
    hints = []
    for each in (ours, wanted):
        (out := shop.store.root / ".out.tmp").write_bytes(b"sif")
        with pytest.raises(VerifyError) as failed:
            finishing.put_sif(out, each, shop.store, lambda made, found: None)
        hints.append(failed.value.hint)
    assert hints == [f"runner image verify {name} --format oci --json", None]
    assert shop.store.find(shop.image.key, "sif") is None
