"""The templates of batch scripts: Jinja reads them, but only when one has changed.

Jinja takes longer to import than a script to write. So what a template comes to, which is little, is kept
beside it, where Python keeps its own byte code, by whoever may write there.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from msgspec import DecodeError, Struct, json

from kit import files
from kit.errors import SlipworksError

if TYPE_CHECKING:
    from jinja2 import nodes

FOLDER = Path(__file__).parent / "templates"


class Value(Struct, frozen=True, tag=True):
    """`{{ name }}`"""

    name: str


class Choice(Struct, frozen=True, tag=True):
    """`{% if one or another %}`"""

    names: tuple[str, ...]
    body: tuple[Piece, ...]


class Repeat(Struct, frozen=True, tag=True):
    """`{% for name in names %}`"""

    name: str
    names: str
    body: tuple[Piece, ...]


Piece = Union[str, Value, Choice, Repeat]  # noqa: UP007 # "|" cannot be evaluated before the classes are there


class Template(Struct, frozen=True):
    """A template with all that it includes. made_of: a hash of their sources, and of what read them."""

    made_of: str
    body: tuple[Piece, ...]

    def render(self, values: Mapping[str, Any]) -> str:
        """Its text. KeyError for a name that has no value."""
        return "".join(_said(self.body, values))


def load(name: str, folder: Path = FOLDER) -> Template:
    """A template of a folder, as it is now. What is kept of it is whole or not there, and nobody needs it."""
    made_of = _hash([*sorted(folder.glob("*.j2")), Path(__file__)])
    kept = folder / f"__pycache__/{name}.json"
    with contextlib.suppress(OSError, DecodeError):
        there = json.decode(kept.read_bytes(), type=Template)
        if there.made_of == made_of:
            return there
    made = Template(made_of, tuple(_read(name, folder)))
    if not sys.dont_write_bytecode:
        with contextlib.suppress(OSError, SlipworksError):
            files.write(kept, json.encode(made))
    return made


def _hash(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        raw = path.read_bytes()
        whole.update(f"{path.name} {len(raw)}\n".encode() + raw)
    return whole.hexdigest()


def _said(body: Sequence[Piece], values: Mapping[str, Any]) -> Iterator[str]:
    for piece in body:
        match piece:
            case str():
                yield piece
            case Value():
                yield str(values[piece.name])
            case Choice():
                if any(values[name] for name in piece.names):
                    yield from _said(piece.body, values)
            case Repeat():
                for each in values[piece.names]:
                    yield from _said(piece.body, {**values, piece.name: each})


def _read(name: str, folder: Path) -> Iterator[Piece]:
    import jinja2

    reader = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        comment_start_string="<#", comment_end_string="#>",  # bash has its own use for {#
    )  # fmt: skip
    return _pieces(folder, reader.parse((folder / name).read_text(), name).body)


def _pieces(folder: Path, body: Sequence[nodes.Node]) -> Iterator[Piece]:
    from jinja2 import nodes

    for node in body:
        match node:
            case nodes.Output():
                yield from (_output(each) for each in node.nodes)
            case nodes.Include(template=nodes.Const(value=str() as name)):
                yield from _read(name, folder)
            case nodes.If(elif_=[], else_=[]):
                yield Choice(_names(node.test), tuple(_pieces(folder, node.body)))
            case nodes.For(target=nodes.Name(), iter=nodes.Name(), else_=[], test=None, recursive=False):
                yield Repeat(_name(node.target), _name(node.iter), tuple(_pieces(folder, node.body)))
            case _:
                raise _too_much(node)


def _output(node: nodes.Node) -> Piece:
    from jinja2 import nodes

    return node.data if isinstance(node, nodes.TemplateData) else Value(_name(node))


def _names(test: nodes.Node) -> tuple[str, ...]:
    from jinja2 import nodes

    return (*_names(test.left), *_names(test.right)) if isinstance(test, nodes.Or) else (_name(test),)


def _name(node: nodes.Node) -> str:
    from jinja2 import nodes

    if not isinstance(node, nodes.Name):
        raise _too_much(node)
    return node.name


def _too_much(node: nodes.Node) -> ValueError:
    found = type(node).__name__
    return ValueError(f"line {node.lineno}: found {found}, but templates substitute and nothing else")
