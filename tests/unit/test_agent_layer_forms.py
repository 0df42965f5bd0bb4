"""The agent's layer in its forms, apart from its making: the client path, the words that mount it."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from image_cache.store import Store
from kit.errors import InvalidFileError
from kit.nouns import Platform
from runner import agent_layer, building, layer_mounts

HERE = Platform.host()


def test_the_client_path_is_one_link_and_the_same_bytes_everywhere() -> None:
    raw = agent_layer.client_path("/slipworks-agent/bin/openhands-agent-server")
    assert (
        hashlib.sha256(raw).hexdigest() == "b4f352e15022357190b9352912f8f39150ce9dc9bb71a99e5eea5e3bbf84bbbb"
    )
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        (link,) = tar.getmembers()  # no folder, whose mode or owner it would reset
    assert (link.name, link.linkname) == (
        "usr/local/bin/openhands-agent-server", "/slipworks-agent/bin/openhands-agent-server"
    )  # fmt: skip
    assert (link.issym(), link.uid, link.gid, link.mtime) == (True, 0, 0, 315532800)
    assert gzip.decompress(raw)[-1024:] == bytes(1024)


def test_what_is_not_made_is_not_found_and_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "layer_artifact", lambda *asked: pytest.fail("it builds"))
    store = Store(tmp_path / "images")
    assert agent_layer.find(HERE, store) is None
    assert not any(getattr(agent_layer.forms(HERE, store), name) for name in ("gzip", "zstd", "tiny"))
    assert not store.root.exists()


def test_the_words_that_mount_it() -> None:
    place = Path("/cache/layers/agent.sqfs")
    assert agent_layer.mount_argv("apptainer", place) == [
        "--bind", "/cache/layers/agent.sqfs:/slipworks-agent:image-src=/"
    ]  # fmt: skip
    assert agent_layer.mount_argv("podman", place) == [
        "--volume", "/cache/layers/agent.sqfs:/slipworks-agent:O"
    ]  # fmt: skip
    (option, value) = agent_layer.mount_argv("docker", place)
    assert (option, value.split(",")) == (
        "--mount", ["type=bind", f"source={place}", "target=/slipworks-agent", "readonly"]
    )  # fmt: skip


def test_a_path_that_means_something_is_quoted_or_refused() -> None:
    odd = Path('/a: b, it\'s a "cache"/agent')
    (option, value) = agent_layer.mount_argv("apptainer", odd)
    assert option == "--mount"
    assert value == (
        'type=bind,"source=/a: b, it\'s a ""cache""/agent",target=/slipworks-agent,image-src=/,ro'
    )
    with pytest.raises(InvalidFileError, match="cannot be told"):
        agent_layer.mount_argv("podman", odd)


def test_what_is_mounted_lies_under_the_key_of_the_layer(tmp_path: Path) -> None:
    store, spec = Store(tmp_path / "images"), agent_layer.spec()
    squashed = layer_mounts.path_of(store, spec, HERE, squashed=True)
    folder = layer_mounts.path_of(store, spec, HERE, squashed=False)
    other = layer_mounts.path_of(
        store, spec, Platform("arm64" if HERE.arch == "amd64" else "amd64"), squashed=True
    )
    assert squashed.parent == folder.parent == tmp_path / "layers"
    assert len({squashed, folder, other}) == 3
    assert squashed.name.startswith("agent-server-") and squashed.suffix == ".sqfs"


def test_the_folder_is_made_once_and_squashed_alike(tmp_path: Path) -> None:
    """By the mechanism alone: any files do."""
    store, spec = Store(tmp_path / "images"), agent_layer.spec()
    asked: list[Path] = []

    def put(tree: Path) -> None:
        asked.append(tree)
        folder = tree / spec.folder.lstrip("/")
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/start").write_text("#!/bin/sh\n")
        (folder / "bin/start").chmod(0o755)

    first = layer_mounts.made(store, spec, HERE, squashed=False, put=put)
    assert layer_mounts.made(store, spec, HERE, squashed=False, put=put) == first
    assert len(asked) == 1 and (first / "bin/start").read_text() == "#!/bin/sh\n"
    assert not list(first.parent.glob(".*"))
