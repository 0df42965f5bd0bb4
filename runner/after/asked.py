"""What a job says of what comes after it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Upload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints that go to the Hugging Face hub once the run has ended, by a run of its own, on one node
    without GPUs, in the same image, which must have huggingface_hub.

    repo       as the hub calls it: org/name. It is made where it is not there.
    folder     below the checkpoints. `*` is allowed: of several the last one goes, by the numbers in their
               names. None: all of them.
    target     where it goes within the repository; None: to its top.
    kind       what the repository is.
    private    whether it is private, where it is made.
    revision   the branch, which is made where it is not there; None: the repository's own.
    leave      names of files that do not go: "*.pt", "optim/*".
    always     also after a run that failed, was lost or ran out of time; never after one that was cancelled.
    partition  of nodes without GPUs; None: the cpu_partition of the cluster's profile.
    time       the longest that it may take; None: the cluster's default.
    token      the secret with the hub's token: of the submitter's environment, or of `runner secrets`.
    sbatch     further options of sbatch for it, as the job's own key.
    """

    repo: str
    folder: str | None = None
    target: str | None = None
    kind: Literal["model", "dataset"] = "model"
    private: bool = True
    revision: str | None = None
    leave: tuple[str, ...] = ()
    always: bool = False
    partition: str | None = None
    time: str | None = None
    token: str = "HF_TOKEN"
    sbatch: dict[str, str | bool] = {}


class After(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes after the run.

    upload  checkpoints to the Hugging Face hub: see Upload.
    """

    upload: Upload
