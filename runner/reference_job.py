"""The page of a job file's keys, made from the Structs that read it: their docstrings, types and defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from msgspec import NODEFAULT
from msgspec import inspect as types

from runner import job, launch
from runner.after.asked import After, Upload
from runner.beside.asked import Podman
from runner.code_server.wanted import CodeServer
from runner.egress.asked import Egress
from runner.sandboxes.settings import Settings
from runner.sandboxes.wanted import Sandboxes
from runner.skyrl import section
from runner.staging import asked

TABLES: tuple[type[Any], ...] = (
    job.Job, Egress, job.Ray, job.Code, job.Checkpoints, job.Mount, launch.Service, launch.Artifact,
    job.Throughput, CodeServer,
    section.Skyrl, section.SkyrlData, asked.Stage, asked.Model, asked.Dataset, After, Upload, Podman,
    Sandboxes, Settings,
)  # fmt: skip
"""Job first; the others are mappings in it, whose keys have a table each."""
HEAD = """A job file is YAML ([how to submit one](../how-to/submit-a-job.md)). An unknown key is an error
that names its line and what may have been meant. Each key can be given or changed at submission, too:
`runner submit job.yaml nodes=4 env.LR=1e-6 'code=[~/src]'`.
"""

_SIMPLE = {
    types.StrType: "text", types.BoolType: "true or false", types.IntType: "whole number",
    types.FloatType: "number", types.DictType: "mapping",
}  # fmt: skip


def page() -> str:
    """All of it but the title. Pure."""
    return f"{HEAD}\n" + "\n".join(line for each in TABLES for line in _table(each))


def meanings(struct: type[Any]) -> dict[str, str]:
    """Key -> what its docstring says of it. A line that begins with keys (`a`, or `a, b`) is about them, and
    so are the indented lines below it."""
    keys = [each.encode_name for each in _fields(struct)]
    found: dict[str, str] = {}
    named: list[str] = []
    for line in (inspect.getdoc(struct) or "").splitlines()[1:]:
        begins = re.match(r"(\w+(?:, \w+)*)\s+(\S.*)", line)
        if begins and set(begins[1].split(", ")) <= set(keys):
            named = begins[1].split(", ")
            found |= dict.fromkeys(named, begins[2])
        elif line.startswith(" "):
            found |= {key: f"{found[key]} {line.strip()}" for key in named}
        else:
            named = []
    return found


def _table(struct: type[Any]) -> Iterator[str]:
    told = meanings(struct)
    if struct is not job.Job:
        yield f"## {struct.__name__}\n"
        yield f"{_first(struct)}\n"
    yield from ("| key | what it takes | default | meaning |", "|---|---|---|---|")
    for each in _fields(struct):
        meaning = told[each.encode_name].replace("|", "&#124;").replace("None:", "left out:")
        yield f"| `{each.encode_name}` | {_taken(each.type)} | {_default(each)} | {meaning} |"
    yield ""


def _first(struct: type[Any]) -> str:
    return " ".join((inspect.getdoc(struct) or "").split("\n\n")[0].split())


def _fields(struct: type[Any]) -> Any:
    info: Any = types.type_info(struct)
    return info.fields


def _taken(kind: Any) -> str:
    """A type in words; None goes without saying."""
    if isinstance(kind, types.UnionType):
        members = [each for each in kind.types if not isinstance(each, types.NoneType)]
        return " or ".join(sorted(map(_taken, members), key=lambda word: word.startswith("[")))
    if isinstance(kind, types.StructType):
        return f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})"
    if isinstance(kind, types.LiteralType):
        return " or ".join(f"`{each}`" for each in kind.values)
    if isinstance(kind, types.VarTupleType):
        return f"list of {_taken(kind.item_type)}"
    return next(word for simple, word in _SIMPLE.items() if isinstance(kind, simple))


def _default(field: Any) -> str:
    value = field.default
    if field.required:
        return "**needed**"
    if value is NODEFAULT or value in (None, (), {}):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return '`["."]`' if value == (".",) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
