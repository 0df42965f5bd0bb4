"""The training YAML of a job (open-instruct's second layer): the program's own file, not ours.

It is carried into the run folder byte for byte, and looked at for what the kit must know of it: that it is
YAML, and for which tokenizer data sets are processed. Whatever else it says is between it and its program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import files
from kit.errors import InvalidFileError
from runner.runs import INSIDE, RunFolder

if TYPE_CHECKING:
    from runner.job import Job

VARIABLE = "SLIPWORKS_TRAINING"
SEEN_AT = f"{INSIDE}/training.yaml"
"""Where nodes see it, in whatever image; the variable says so, too."""
_TOKENIZES = re.compile(r"(?i)(?:^|\.)(tokenizer|chat_template|model)([._](?:name|path|id|file|or|_)+)?$")


def read(path: Path) -> dict[str, Any]:
    """What it says. InvalidFileError, with the line, for what is no YAML, no mapping, or says a key twice."""
    from runner import yaml_lines  # late: YAML is slow to load, and a node needs none

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as bad:
        raise InvalidFileError(f"cannot read the training file {path}: {bad}") from bad
    root = yaml_lines.composed(text, str(path), "keys and values for the program")
    yaml_lines.lines(root, str(path))
    data = yaml_lines.plain(root, str(path))
    if not isinstance(data, dict):
        raise InvalidFileError(f"{path}: found no mapping, expected `key: value` lines for the program")
    return data


def of(job: Job) -> dict[str, Any]:
    """What a loaded job's says; nothing where it has none."""
    return read(Path(job.training)) if job.training else {}


def carry(job: Job, folder: RunFolder) -> None:
    """Puts it into the run folder, as it is now; 0600, as it may be private."""
    if job.training:
        files.write(folder.training, Path(job.training).read_bytes(), mode=0o600)


def variables(job: Job) -> dict[str, str]:
    """What tells the command where it is."""
    return {VARIABLE: SEEN_AT} if job.training else {}


def tokenized_for(job: Job) -> str | None:
    """Model, tokenizer and chat template that it names, a line each; None: none (fixes/datasets_cache.py)."""
    return "\n".join(sorted(_named(of(job), ""))) or None


def _named(data: Mapping[str, Any], at: str) -> Iterator[str]:
    for key, value in data.items():
        path = f"{at}.{key}" if at else str(key)
        if isinstance(value, Mapping):
            yield from _named(value, path)
        elif value is not None and not isinstance(value, list) and _TOKENIZES.search(path):
            yield f"{path}={value}"
