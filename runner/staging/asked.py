"""What a job says of the models and data sets that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

INSIDE = "/slipworks-run/staged"
"""The folder inside with one entry for each; SLIPWORKS_STAGED names it, too."""
MAIN = "main"

Kind = Literal["model", "dataset"]


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of the Hugging Face hub, or part of one.

    id        as the hub calls it: Qwen/Qwen3-8B.
    revision  a branch, a tag or a whole commit.
    patterns  only files whose names match one of these: "*.json"; none given: all.
    name      of its entry in /slipworks-run/staged; None: the last part of the id.
    """

    id: str
    revision: str = MAIN
    patterns: tuple[str, ...] = ()
    name: str | None = None


class Dataset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set of the Hugging Face hub, or part of one.

    id        as the hub calls it: openai/gsm8k.
    revision  a branch, a tag or a whole commit.
    patterns  only files whose names match one of these: "main/*.parquet"; none given: all.
    name      of its entry in /slipworks-run/staged; None: the last part of the id.
    tasks     its parquet files hold tasks, one a row: `path`, where its folder goes, and `task_binary`, a tar
              archive of it, also compressed. The entry is a folder with these folders in it.
    """

    id: str
    revision: str = MAIN
    patterns: tuple[str, ...] = ()
    name: str | None = None
    tasks: bool = False


class Stage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is downloaded to the cluster's cache at submission, on the login node. Nodes find it by its name
    on the hub, as HF_HOME leads there, and as a folder in /slipworks-run/staged.

    models    "ID", "ID@REVISION", or see Model.
    datasets  "ID", "ID@REVISION", or see Dataset. By its name on the hub the library `datasets` loads none
              without internet: name the files in the folder.
    """

    models: tuple[str | Model, ...] = ()
    datasets: tuple[str | Dataset, ...] = ()


class Item(Struct, frozen=True):
    """One of them in its whole form. `at`: where the job says it."""

    kind: Kind
    id: str
    revision: str
    patterns: tuple[str, ...]
    name: str
    tasks: bool
    at: str

    @property
    def told(self) -> str:
        return f"{self.kind} {self.id}" + ("" if self.revision == MAIN else f"@{self.revision}")


def items(stage: Stage | None) -> Iterator[Item]:
    """All that a job asks for, in its order. Pure."""
    if stage is None:
        return
    for place, model in enumerate(stage.models):
        yield _item("model", _whole(model, Model), f"stage.models[{place}]")
    for place, dataset in enumerate(stage.datasets):
        yield _item("dataset", _whole(dataset, Dataset), f"stage.datasets[{place}]")


def _whole(said: str | Model | Dataset, kind: type[Model] | type[Dataset]) -> Model | Dataset:
    if not isinstance(said, str):
        return said
    name, _, revision = said.partition("@")
    return kind(id=name, revision=revision if "@" in said else MAIN)


def _item(kind: Kind, said: Model | Dataset, at: str) -> Item:
    name = said.name if said.name is not None else said.id.rpartition("/")[2]
    tasks = isinstance(said, Dataset) and said.tasks
    return Item(kind, said.id, said.revision, said.patterns, name, tasks, at)
