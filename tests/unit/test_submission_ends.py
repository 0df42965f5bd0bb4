"""A submission that breaks off: what of its secrets stays, and who takes it away."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import batching, queueing, submitted
from runner.queueing import Prepared
from runner.runs import RunFolder
from tests.unit.test_queueing import Slurm, folder, found, job, site

__all__ = ["folder", "found"]


@pytest.fixture
def ready(tmp_path: Path, folder: RunFolder) -> Prepared:
    return queueing.prepared(job(secrets=("A",), restarts=1), site(tmp_path), folder, dry=False)


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError("the disk is gone")])
def test_no_secret_comes_before_the_record(
    ready: Prepared, folder: RunFolder, end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laying the image out takes minutes; killed there, nothing could tell that secrets are left."""

    def broken(*_: object) -> None:
        record = submitted.read(folder)
        assert record and record.state == "submitting"
        assert not folder.secrets.exists() and not folder.token.exists()
        raise end

    monkeypatch.setattr(batching, "write", broken)
    with pytest.raises(type(end)):
        queueing.submit(ready, {"A": "s"}, Slurm())
    record = submitted.read(folder)
    assert record and record.state == "failed" and record.why in ("it was interrupted", "the disk is gone")
    assert not folder.secrets.exists() and not folder.token.exists()


@pytest.mark.parametrize("at", [0, 1])
def test_a_job_in_the_queue_keeps_its_secrets(
    ready: Prepared, folder: RunFolder, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of a job cannot be written: it waits in the queue all the same."""
    honest, wrote = submitted._with, []

    def full(*said: object) -> submitted.Record:
        wrote.append(said)
        if len(wrote) > at:
            raise OSError("no space left")
        return honest(*said)  # type: ignore[arg-type]

    monkeypatch.setattr(submitted, "_with", full)
    with pytest.raises(OSError, match="no space left"):
        queueing.submit(ready, {"A": "s"}, Slurm())
    record = submitted.read(folder)
    assert record and record.state == "submitting" and len(record.jobs) == at
    assert folder.secrets.exists() and folder.token.exists()
