"""An image's layers as a folder: what a later layer removes is gone, and nothing reaches outside."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from image_cache import unpacking
from image_cache.store import Store
from image_cache.unpacking import unpack
from kit.errors import InvalidFileError
from kit.nouns import Image, Platform

Entry = tuple[str, bytes, bytes | str]


def tar_of(folder: Path, *entries: Entry) -> Path:
    """A tar of (name, type, content or link)."""
    out = folder / f"{len(list(folder.iterdir()))}.tar"
    with tarfile.open(out, "w") as tar:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out


def stacked(folder: Path, *tars: Path) -> tuple[Store, Image]:
    store = Store(folder / "store")
    platform = Platform.host()
    image = store.put_root(tars[0], key="0" * 64, name="base", platform=platform)
    layers = [store.put_artifact(f"{n}" * 64, tar) for n, tar in enumerate(tars[1:], 1)]
    return store, store.put_on(image, layers, key="a" * 64, name="all")


FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def test_layers_over_each_other(tmp_path: Path) -> None:
    below = tar_of(
        tmp_path, ("./", FOLDER, b""), ("a/", FOLDER, b""), ("a/gone", FILE, b"1"), ("a/kept", FILE, b"2"),
        ("o/old", FILE, b"3"), ("link", LINK, "/absolute"), ("twin", HARD, "a/kept"), ("f", FILE, b"4"),
        ("dev", tarfile.CHRTYPE, b""),
    )  # fmt: skip
    above = tar_of(
        tmp_path, ("a/.wh.gone", FILE, b""), ("o/.wh..wh..opq", FILE, b""), ("o/new", FILE, b"5"),
        ("f", FILE, b"6"), ("link", FILE, b"7"),
    )  # fmt: skip
    store, image = stacked(tmp_path, below, above)
    unpack(store, image, out := tmp_path / "it's out")
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == {"a/kept": b"2", "twin": b"2", "o/new": b"5", "f": b"6", "link": b"7"}
    assert not (out / "dev").exists() and not (out / "link").is_symlink()


@pytest.mark.parametrize(
    "entries",
    [
        [("../out", FILE, b"x")],
        [("away", LINK, "/tmp"), ("away/out", FILE, b"x")],
        [("away", LINK, "../.."), ("away/out", FILE, b"x")],
        [("hard", HARD, "../secret")],
        [("away", LINK, ".."), ("hard", HARD, "away/secret")],
    ],
)
def test_nothing_reaches_outside(tmp_path: Path, entries: list[Entry]) -> None:
    (tmp_path / "secret").write_text("s")
    store, image = stacked(tmp_path, tar_of(tmp_path, *entries))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InvalidFileError, match="outside"):
        unpack(store, image, tmp_path / "root")
    assert sorted({path.name for path in tmp_path.iterdir()} - {"root"}) == before
    assert not Path("/tmp/out").exists()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (("a/b/status", FILE, b"new"), b"new"),
        (("./a/b/status", FILE, b"new"), b"new"),
        (("a/b/.wh.status", FILE, b""), None),
        (("a/.wh.b", FILE, b""), None),
        (("a/.wh..wh..opq", FILE, b""), None),
        (("a/b/another", FILE, b"x"), b"old"),
    ],
)
def test_one_file_of_many_layers(tmp_path: Path, entry: Entry, expected: bytes | None) -> None:
    store, image = stacked(tmp_path, tar_of(tmp_path, ("a/b/status", FILE, b"old")), tar_of(tmp_path, entry))
    layers = store.opened(image)[0].layers
    assert unpacking.file(store, layers, "a/b/status") == expected
    assert unpacking.file(store, layers, "a/b/none") is None
    for layer in layers:
        store.blob(layer.digest).write_bytes(b"")  # what was found is noted: no layer is read again
    assert unpacking.file(store, layers, "a/b/status") == expected
