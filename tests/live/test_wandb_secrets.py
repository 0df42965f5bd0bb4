"""What W&B writes of a run and sends holds none of its secrets, which its process has as variables."""

from __future__ import annotations

import gzip
import json
import secrets
import zlib
from pathlib import Path

import pytest

from tests.live.parts_wandb import KEY, Wandb
from tests.live.test_slurm_secrets import holders
from tests.live.test_wandb_sync import Desk, desk, server

__all__ = ["desk", "server"]
pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]
CONFIG = 'run.config.update({"lr": 1e-6, "model": "Qwen/Qwen3-8B"}); run.finish()'


def plain(content: bytes) -> bytes:
    """As it was before it was packed."""
    for unpack in (gzip.decompress, zlib.decompress):
        try:
            return unpack(content)
        except (OSError, zlib.error, EOFError):
            continue
    return content


def test_no_secret_is_in_what_wandb_keeps_or_sends(desk: Desk, server: Wandb) -> None:
    value = f"s3cret-{secrets.token_hex(12)}"
    desk.env |= {"HF_TOKEN": value, "DAYTONA_API_KEY": value}
    folder = desk.run(0)
    desk.logged(folder, "one", 3, CONFIG)
    written = [each for each in Path(folder.root / "wandb").rglob("*") if each.is_file()]
    assert any(b"Qwen3-8B" in each.read_bytes() for each in written), "the configuration is there to be read"
    assert not holders(folder.root, value.encode()) and not holders(folder.root, KEY.encode())
    told = desk.type("sync", "--json")
    assert told.code == 0 and value not in told.out + told.err, told.err
    kept = server.runs["one"]
    assert b"Qwen3-8B" in kept.files["config.yaml"]
    sent = [
        *map(plain, kept.files.values()),
        json.dumps(kept.history).encode(),
        *map(str.encode, server.asked),
    ]
    assert not [each for each in sent if value.encode() in each or KEY.encode() in each]
    assert not holders(folder.root, value.encode())
