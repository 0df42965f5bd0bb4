"""Whether Slurm has refused a job, or only has not answered: the latter may be a job all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.errors import LaunchError, NetworkError
from slurm import client
from slurm.client import Client
from slurm.ways import Own


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("exec sleep 100", NetworkError),
        ("echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv' >&2; exit 1",
         NetworkError),
        ("echo 'sbatch: error: invalid partition specified: x' >&2; exit 1", LaunchError),
    ],
)  # fmt: skip
def test_no_answer_is_no_refusal(
    script: str, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\n{script}\n")
    sbatch.chmod(0o755)
    monkeypatch.setattr(client, "SUBMIT", 0.5)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(kind):
        Client(Own()).submit(Path("job.sbatch"))
