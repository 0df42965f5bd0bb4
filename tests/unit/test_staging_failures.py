"""A hub that breaks off, refuses, lies or is not there: what was had is kept, and what is wrong is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit.errors import AuthError, HashMismatchError, MissingToolError, NetworkError, NotFoundError, QuotaError
from runner.staging.asked import Model
from tests.unit.parts_hub import StandIn, hub
from tests.unit.parts_staging import FILES, MODEL, WEIGHTS, bring, folder, holds, job, scratch

__all__ = ["hub", "scratch"]

pytestmark = pytest.mark.timeout(120)


def test_a_connection_that_breaks_off_goes_on_where_it_was(hub: StandIn, scratch: Path) -> None:
    hub.publish("model", MODEL, FILES)
    hub.cut = {"model.safetensors": [1_000_000], "same.bin": [1_000_000]}
    assert holds(folder(bring(job(MODEL), scratch), scratch)) == FILES
    gets = hub.gets("model.safetensors") or hub.gets("same.bin")
    assert gets[0].first is None and gets[-1].first and gets[-1].first > 0
    assert hub.sent < 1.2 * len(WEIGHTS) + 100_000


def test_a_later_command_goes_on_where_the_former_broke_off(hub: StandIn, scratch: Path) -> None:
    """The hub's own library would begin anew."""
    hub.publish("model", MODEL, {"model.safetensors": WEIGHTS})
    hub.cut, hub.after_cut = {"model.safetensors": [2_000_000]}, 503
    with pytest.raises(NetworkError, match=r"answered 503 for model\.safetensors of model Qwen/Tiny"):
        bring(job(MODEL), scratch)
    (part,) = (scratch / "huggingface/hub/models--Qwen--Tiny/blobs").iterdir()
    have = part.stat().st_size
    assert 0 < have <= 2_000_000
    assert not (scratch / "huggingface/hub/models--Qwen--Tiny/refs").exists(), (
        "no name leads to what is not whole"
    )
    hub.asked.clear()
    hub.status = {}
    assert holds(folder(bring(job(MODEL), scratch), scratch)) == {"model.safetensors": WEIGHTS}
    assert [each.first for each in hub.gets("model.safetensors")] == [have]


def test_a_killed_command_leaves_what_it_had(hub: StandIn, scratch: Path, tmp_path: Path) -> None:
    """And its claim keeps nobody waiting."""
    from huggingface_hub import constants

    hub.publish("model", MODEL, {"model.safetensors": WEIGHTS})
    hub.stall = {"model.safetensors": 2_000_000}
    (tmp_path / "job.yaml").write_text(f"name: j\narch: cpu\nrun: 'true'\nstage: {{models: [{MODEL}]}}\n")
    code = (
        "import sys; from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 100_000\n"
        "from runner.cli import main; sys.exit(main())"
    )
    env = {**os.environ, "HF_ENDPOINT": constants.ENDPOINT, "SLIPWORKS_CLUSTER": "local",
           "SLIPWORKS_CACHE": str(tmp_path / "cache")}  # fmt: skip
    command = subprocess.Popen([sys.executable, "-c", code, "stage", str(tmp_path / "job.yaml")], env=env)
    part = tmp_path / "cache/job-caches/huggingface/hub/models--Qwen--Tiny/blobs"
    deadline = time.monotonic() + 40
    while not (part.exists() and sum(each.stat().st_size for each in part.iterdir()) >= 1_900_000):
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    command.kill()
    command.wait()
    have = sum(each.stat().st_size for each in part.iterdir())
    hub.stall = {}
    hub.asked.clear()
    assert holds(folder(bring(job(MODEL), tmp_path / "cache/job-caches"), tmp_path / "cache/job-caches"))
    assert [each.first for each in hub.gets("model.safetensors")] == [have]


def test_without_the_library_what_was_staged_before_counts(
    hub: StandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a job that submits others: the layer of images has no huggingface_hub."""
    hub.publish("model", MODEL, FILES)
    bring(job(MODEL), scratch)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert bring(job(MODEL), scratch).staged
    assert "huggingface_hub is not installed here" in capsys.readouterr().err
    with pytest.raises(MissingToolError, match="nothing can be staged"):
        bring(job("Qwen/Other"), scratch)


def test_a_server_without_ranges_sends_all_of_it_again(hub: StandIn, scratch: Path) -> None:
    hub.publish("model", MODEL, FILES)
    hub.rangeless = True
    hub.cut = {"model.safetensors": [1_000_000], "same.bin": [1_000_000]}
    assert holds(folder(bring(job(MODEL), scratch), scratch)) == FILES


def test_other_bytes_than_promised_are_not_kept(hub: StandIn, scratch: Path) -> None:
    hub.publish("model", MODEL, FILES)
    hub.spoilt = {"config.json"}
    with pytest.raises(HashMismatchError, match=r"config\.json of model Qwen/Tiny came with hash"):
        bring(job(MODEL), scratch)
    hub.spoilt = set()
    assert holds(folder(bring(job(MODEL), scratch), scratch)) == FILES


def test_a_private_model_needs_a_token(hub: StandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("model", MODEL, {"config.json": b"{}"}, token="hf_s3cret")
    with pytest.raises(AuthError, match=r"does not give us model Qwen/Tiny \(401\)") as raised:
        bring(job(MODEL), scratch)
    assert raised.value.hint == "runner secrets set HF_TOKEN"
    monkeypatch.setenv("HF_TOKEN", "hf_wr0ng")
    with pytest.raises(AuthError) as raised:
        bring(job(MODEL), scratch)
    assert "hf_wr0ng" not in f"{raised.value.message} {raised.value.hint}"
    monkeypatch.delenv("HF_TOKEN")
    from runner import own_secrets

    with own_secrets.changing() as values:
        values["HF_TOKEN"] = "hf_s3cret"
    bring(job(MODEL), scratch)
    assert hub.gets("config.json")[-1].authorization == "Bearer hf_s3cret"
    assert not [each for each in scratch.rglob("*") if each.is_file() and b"s3cret" in each.read_bytes()]


def test_a_gated_model_says_where_its_terms_are(hub: StandIn, scratch: Path) -> None:
    hub.publish("dataset", "a/b", {"config.json": b"{}"}, token="hf_s3cret", gated=True)
    with pytest.raises(AuthError, match="terms were not accepted") as raised:
        bring(job(datasets=("a/b",)), scratch)
    assert "/datasets/a/b, then runner secrets set HF_TOKEN" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ("Qwen/Other", r"has no model Qwen/Other \(404\)"),
        (f"{MODEL}@v9", r"has no model Qwen/Tiny@v9 \(404\)"),
        (
            Model(id=MODEL, patterns=("*.gguf",)),
            r"no file of model Qwen/Tiny matches \*.gguf: it has config.json",
        ),
    ],
)
def test_what_is_not_there_is_said(hub: StandIn, scratch: Path, wanted: str | Model, match: str) -> None:
    hub.publish("model", MODEL, FILES)
    with pytest.raises(NotFoundError, match=match):
        bring(job(wanted), scratch)
    assert not scratch.exists()


def test_too_many_requests_are_told_as_that(
    hub: StandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("model", MODEL, FILES)
    hub.status = {"/tree/": 429, "main": 429}
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(QuotaError, match="429"):
        bring(job(MODEL), scratch)


def test_without_the_hub_what_was_staged_before_counts(
    hub: StandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.publish("model", MODEL, FILES)
    from huggingface_hub import constants

    bring(job(MODEL), scratch)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    plan = bring(job(MODEL), scratch)
    assert plan.staged[0].commit == commit and "what was staged before is taken" in capsys.readouterr().err
    (folder(plan, scratch) / "config.json").unlink()
    with pytest.raises(NetworkError, match=r"could not get model Qwen/Tiny from http://127.0.0.1:9"):
        bring(job(MODEL), scratch)
