"""A job file's text with its overrides, as data, and where each part of it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from kit.errors import InvalidFileError, UsageError
from runner import yaml_lines

AS_WRITTEN = ("env", "env_files", "run")
"""Keys in whose values a word is a word, whatever YAML takes it for."""
NUMBERS = ("time", "sbatch")
"""Keys whose numbers are as they are written: 12:00:00 would be 43200."""
INSIDE = {"services": ("env", "run")}  # such keys of the mappings in a list


class Text(Struct, frozen=True):
    """What a file and overrides say; `lines`: dotted path -> `file:line`, or the override."""

    data: dict[str, Any]
    lines: dict[str, str]
    where: str

    def locate(self, at: str) -> str:
        """`file:line` of a path such as `ray.args[0]`, or of the nearest thing around it."""
        return yaml_lines.locate(at, self.lines, self.where)


def read(path: Path, overrides: Sequence[str] = ()) -> Text:
    """InvalidFileError for what is no mapping, and for words that no program can be given."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as bad:
        raise InvalidFileError(f"cannot read the job file {path}: {bad}", "runner submit JOB.YAML") from bad
    root = yaml_lines.composed(text, str(path))
    lines = yaml_lines.lines(root, str(path))
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        _keep_words(str(key.value), value)
    data = yaml_lines.plain(root, str(path))
    if not isinstance(data, dict):
        raise InvalidFileError(f"{path}: found no mapping, expected `name:`, `run:` and so on")
    for override in overrides:
        key, value = _override(override)
        _put(data, key, value, override)
        for inner in [each for each in lines if each.startswith((f"{key}.", f"{key}["))]:
            del lines[inner]
        lines[key] = f"{key}= on the command line"
    found = Text(data, lines, str(path))
    for at, word in _words(data, ""):
        if wrong := _unspeakable(word):
            raise InvalidFileError(f"{found.locate(at)}: found {wrong}")
    return found


def _keep_words(key: str, value: yaml.Node) -> None:
    if key in AS_WRITTEN:
        yaml_lines.keep_words(value)
    if key in NUMBERS:
        yaml_lines.keep_numbers(value)
    for each in value.value if key in INSIDE and isinstance(value, yaml.SequenceNode) else ():
        for inner, below in each.value if isinstance(each, yaml.MappingNode) else ():
            if inner.value in INSIDE[key]:
                yaml_lines.keep_words(below)


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"not an override: found {text!r}, expected key=value", "runner submit --help")
    top, _, below = key.partition(".")
    if top == "env" and below:
        return key, value
    try:
        node = yaml.compose(value, Loader=yaml.SafeLoader)
        if node is None:
            return key, None
        _keep_words(top, node)
        yaml_lines.lines(node, f"{key}= on the command line")
        return key, yaml_lines.plain(node, f"{key}= on the command line")
    except (yaml.YAMLError, RecursionError) as bad:
        raise UsageError(f"the value of {key}= is not YAML: {value!r}") from bad


def _put(data: dict[str, Any], key: str, value: Any, override: str) -> None:
    rest = key
    while (step := _step(data, rest)) != rest:
        rest = rest[len(step) + 1 :]
        inner = data.setdefault(step, {})
        if not isinstance(inner, dict):
            data[step] = inner = {}
        data = inner
    last = rest
    if last in data and isinstance(data[last], dict) and not isinstance(value, dict | bool):
        raise UsageError(f"cannot set {override!r}: {key} holds {', '.join(data[last]) or 'a mapping'}")
    data[last] = value


def _step(data: dict[str, Any], key: str) -> str:
    """As much of a dotted key as is one key of the mapping, where a file has dots in its keys, too."""
    parts = key.split(".")
    beginnings = [".".join(parts[:number]) for number in range(len(parts), 0, -1)]
    return next((each for each in beginnings if each in data), parts[0])


def _words(data: Any, at: str) -> Iterator[tuple[str, str]]:
    """Every string, keys too, with its place."""
    if isinstance(data, str):
        yield at, data
    elif isinstance(data, dict):
        for key, value in data.items():
            below = f"{at}.{key}" if at else str(key)
            yield from _words(key, below)
            yield from _words(value, below)
    elif isinstance(data, list):
        for place, value in enumerate(data):
            yield from _words(value, f"{at}[{place}]")


def _unspeakable(word: str) -> str | None:
    """Why no program can be given this word; bytes that are no UTF-8 are fine (see `os.fsdecode`)."""
    if "\0" in word:
        return "a NUL byte, which no program can be given"
    try:
        word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "half of a character (a lone surrogate), which no program can be given"
    return None
