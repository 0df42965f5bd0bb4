"""What uploads checkpoints, with the real huggingface_hub, to a server that takes them as the hub does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import json

from runner.after import hub_upload
from tests.live.needs import need
from tests.live.parts_hub_upload import TOKEN, HubServer

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    made = HubServer()
    yield made
    made.close()


class Trained:
    """A run that has ended so, and its checkpoints."""

    def __init__(self, folder: Path, ended: str | None) -> None:
        self.run, self.checkpoints = folder / "the run", folder / "it's checkpoints"
        self.run.mkdir()
        if ended:
            (self.run / "finished").write_text(f"{ended}\n")
        for step in (2, 10):
            made = self.checkpoints / f"global_step_{step}/policy"
            made.mkdir(parents=True)
            (made / "config.json").write_text(f'{{"step": {step}}}')
            (made / "model.safetensors").write_bytes(bytes([step]) * 10_000)
            (made / "optim.pt").write_bytes(b"x")
        (self.checkpoints / "global_step_11").mkdir()

    def upload(self, hub: HubServer, token: str = TOKEN, **asked: object) -> tuple[int, str]:
        said = {
            "repo": "org/made", "folder": "global_step_*", "target": None, "kind": "model", "private": True,
            "revision": None, "leave": ["*.pt"], "always": False, "token": "MY_TOKEN", "message": "m",
            "checkpoints": str(self.checkpoints), "trained": str(self.run),
        }  # fmt: skip
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(self.run / "home"), "MY_TOKEN": token}
        env["HF_HUB_DISABLE_XET"] = "1"
        done = subprocess.run(
            [sys.executable, "-c", Path(hub_upload.__file__).read_text(), json.encode(said | asked).decode()],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90, check=False,
        )  # fmt: skip
        assert TOKEN not in done.stdout and "Traceback" not in done.stdout, done.stdout
        return done.returncode, done.stdout


@pytest.fixture(autouse=True)
def package() -> None:
    from importlib import util

    need(util.find_spec("huggingface_hub"), "huggingface_hub is not installed: ./setup.sh kit")


def test_the_last_checkpoint_goes_without_what_is_left(tmp_path: Path, hub: HubServer) -> None:
    code, said = Trained(tmp_path, "succeeded").upload(hub)
    assert code == 0 and "uploaded" in said, said
    assert hub.private == {"org/made": True}
    assert hub.files == {"policy/config.json": b'{"step": 10}', "policy/model.safetensors": b"\n" * 10_000}


def test_to_a_place_within_a_repository_that_is_there(tmp_path: Path, hub: HubServer) -> None:
    hub.private["org/made"] = False
    code, said = Trained(tmp_path, "succeeded").upload(hub, folder="global_step_2/policy", target="a/b")
    assert code == 0, said
    assert sorted(hub.files) == ["a/b/config.json", "a/b/model.safetensors"]
    assert hub.private == {"org/made": False}


@pytest.mark.parametrize(
    ("ended", "always", "goes"),
    [(None, False, False), (None, True, True), ("no step was made", True, True), ("cancelled", True, False)],
)
def test_after_a_run_that_failed(
    tmp_path: Path, hub: HubServer, ended: str | None, always: bool, goes: bool
) -> None:
    code, said = Trained(tmp_path, ended).upload(hub, always=always)
    assert code == 0 and bool(hub.files) == goes, said
    assert goes or ("nothing is uploaded" in said and not hub.asked)


def test_a_hub_that_is_not_well_is_asked_again(tmp_path: Path, hub: HubServer) -> None:
    """What it has of an earlier try is not sent again."""
    hub.wrong = lambda asked: 503 if asked == "commit" and hub.asked.count("commit") == 1 else 0
    code, said = Trained(tmp_path, "succeeded").upload(hub)
    assert code == 0 and len(hub.files) == 2, said
    assert hub.asked.count("large") == 1


def test_a_token_that_is_refused_is_told_at_once(tmp_path: Path, hub: HubServer) -> None:
    code, said = Trained(tmp_path, "succeeded").upload(hub, token="hf_other")
    assert code == 1 and not hub.files
    assert "error: could not upload " in said and "401" in said, said
    assert "trying again" not in said


def test_nothing_to_upload_is_an_error(tmp_path: Path, hub: HubServer) -> None:
    code, said = Trained(tmp_path, "succeeded").upload(hub, folder="export_*")
    assert code == 1 and "error: nothing to upload: no export_* in " in said
