"""A bind mount in the comma-separated form that docker, podman and apptainer share."""

from __future__ import annotations

import csv
import io

from containers.engine import Bind
from kit.errors import InvalidFileError


def mount_option(bind: Bind, read_only_word: str) -> str:
    """The value of `--mount`: fields of one CSV record, so that commas, quotes and colons are just text."""
    source = str(bind.source.absolute())
    if "\n" in source or "\n" in bind.target:
        raise InvalidFileError(f"a line break in a path cannot be passed to a container engine: {source!r}")
    fields = ["type=bind", f"source={source}", f"target={bind.target}"]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([*fields, *([read_only_word] if bind.read_only else [])])
    return text.getvalue()


def docker_bind(bind: Bind) -> list[str]:
    return ["--mount", mount_option(bind, "readonly")]
