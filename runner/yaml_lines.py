"""YAML with the line of every key, read so that every complaint is one line with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from kit.errors import InvalidFileError


def composed(text: str, where: str, expected: str = "a job") -> yaml.Node:
    """The text's tree; InvalidFileError if it is not YAML, or empty."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as bad:
        line = text.count("\n", 0, bad.position) + 1
        raise InvalidFileError(
            f"{where}:{line}: not YAML: found the character {bad.character!r}: {bad.reason}"
        ) from bad
    except yaml.YAMLError as bad:
        raise _told(bad, where, "not YAML") from bad
    except RecursionError as bad:
        raise InvalidFileError(f"{where}: nested too deeply") from bad
    if root is None:
        hint = "examples/hello-grpo/job.yaml is one" if expected == "a job" else None
        raise InvalidFileError(f"{where}: empty, expected {expected}", hint)
    return root


def lines(root: yaml.Node, where: str) -> dict[str, str]:
    """Dotted path -> `file:line` of its key.

    InvalidFileError for a key that is given twice, and for an alias of something that it is itself part of.
    """
    found = {"": where}

    def walk(node: yaml.Node, at: str, around: tuple[yaml.Node, ...]) -> None:
        if any(node is each for each in around):
            raise InvalidFileError(f"{found[at]}: {at} is an alias of what it is itself part of")
        around = (*around, node)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                path = f"{at}.{key.value}" if at else str(key.value)
                place = f"{where}:{key.start_mark.line + 1}"
                if path in found:
                    raise InvalidFileError(f"{place}: {path} is given twice, first at {found[path]}")
                found[path] = place
                walk(value, path, around)
        elif isinstance(node, yaml.SequenceNode):
            for place_in_list, value in enumerate(node.value):
                path = f"{at}[{place_in_list}]"
                found[path] = f"{where}:{value.start_mark.line + 1}"
                walk(value, path, around)

    walk(root, "", ())
    return found


def plain(root: yaml.Node, where: str) -> Any:
    """The data of a tree; InvalidFileError for tags and values that plain YAML does not have."""
    try:
        return yaml.SafeLoader("").construct_document(root)
    except yaml.YAMLError as bad:
        raise _told(bad, where, "not YAML that a job may hold") from bad
    except ValueError as bad:  # a date or number that there is not
        raise InvalidFileError(f"{where}: not YAML that a job may hold: {bad}") from bad


def keep_words(node: yaml.Node) -> None:
    """Makes the words of a mapping or list strings as they are written: `on` stays on, 1 stays 1."""
    if isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        for each in node.value:
            word = each[1] if isinstance(each, tuple) else each
            if isinstance(word, yaml.ScalarNode):
                word.tag = "tag:yaml.org,2002:str"


def keep_numbers(node: yaml.Node) -> None:
    """Makes numbers and dates strings as they are written, down to those of a mapping: 12:00:00, 010, 1e3.

    Truth and null stay what they are.
    """
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            keep_numbers(value)
    elif isinstance(node, yaml.ScalarNode) and node.tag.rpartition(":")[2] in ("int", "float", "timestamp"):
        node.tag = "tag:yaml.org,2002:str"


def locate(at: str, places: Mapping[str, str], where: str) -> str:
    """`file:line` of a path, or of the nearest thing around it."""
    at = at.replace("[...]", "")
    while at and at not in places:
        at = re.sub(r"(\.[^.\[]*|\[[^\]]*\])$|^[^.\[]*$", "", at)
    return places.get(at, where)


def _told(bad: yaml.YAMLError, where: str, what: str) -> InvalidFileError:
    mark = getattr(bad, "problem_mark", None)
    at = f"{where}:{mark.line + 1}" if mark else where
    return InvalidFileError(f"{at}: {what}: {getattr(bad, 'problem', None) or str(bad).splitlines()[0]}")
