"""Paths of this machine that a job names: made absolute from the job file's folder, and looked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from kit.errors import InvalidFileError
from runner import training
from runner.job import Code, Job, Mount

Locate = Callable[[str], str]


def resolved(job: Job, folder: Path, locate: Locate) -> Job:
    """The job with absolute sources and each option by sbatch's own name; InvalidFileError with the line
    where a source is missing."""
    binds = tuple(_mount(bind, folder, locate(f"binds[{place}]")) for place, bind in enumerate(job.binds))
    code = tuple(_code(each, folder, locate(f"code[{place}]")) for place, each in enumerate(job.code))
    image = str(_absolute(job.image, folder, locate("image"))) if job.image and job.is_sif else job.image
    options = {name.lstrip("-"): value for name, value in job.sbatch.items()}
    env_files = {
        name: _file(path, folder, locate(f"env_files.{name}")) for name, path in job.env_files.items()
    }
    more = {"training": _training(job.training, folder, locate("training")), "env_files": env_files}
    return structs.replace(job, image=image, binds=binds, code=code, sbatch=options, **more)


def _mount(bind: str | Mount, folder: Path, where: str) -> Mount:
    if isinstance(bind, str):
        source, _, rest = bind.partition(":")
        target, _, mode = rest.partition(":")
        if not target.startswith("/") or mode not in ("", "ro", "rw"):
            raise InvalidFileError(
                f"{where}: found bind {bind!r}, expected source:/target or source:/target:ro"
            )
        bind = Mount(source=source, target=target, read_only=mode == "ro")
    if not bind.target.startswith("/"):
        raise InvalidFileError(f"{where}: found target {bind.target!r}, expected an absolute path")
    source_path = _absolute(bind.source, folder, where)
    if not source_path.exists():
        raise InvalidFileError(f"{where}: the bind's source {source_path} does not exist")
    return Mount(source=str(source_path), target=bind.target, read_only=bind.read_only)


def _code(code: str | Code, folder: Path, where: str) -> Code:
    if isinstance(code, str):
        code = Code(source=code)
    source = _absolute(code.source, folder, where)
    if not source.is_dir():
        found = "is no folder" if source.exists() else "does not exist"
        raise InvalidFileError(f"{where}: the code's source {source} {found}")
    for inner in code.imports:
        if not (source / inner).is_dir():
            raise InvalidFileError(f"{where}: the code's source {source} has no folder {inner}")
    return structs.replace(code, source=str(source))


def _training(text: str | None, folder: Path, where: str) -> str | None:
    """Absolute, and YAML: what is wrong with it is told before anything waits in a queue."""
    if text is None:
        return None
    path = _file(text, folder, where)
    training.read(Path(path))
    return path


def _file(text: str, folder: Path, where: str) -> str:
    path = _absolute(text, folder, where)
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise InvalidFileError(f"{where}: {path} {found}")
    return str(path)


def _absolute(text: str, folder: Path, where: str) -> Path:
    try:
        return Path(os.path.abspath(folder / Path(text).expanduser()))  # noqa: PTH100
    except RuntimeError as nobody:  # ~name of a user that there is not
        raise InvalidFileError(f"{where}: there is no such home: {text}") from nobody
