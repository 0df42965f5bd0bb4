"""The stack's interpreter and its scripts' are in the image: a link to what built it works there alone."""

from __future__ import annotations

import re
import shlex

from containers.checks.distributions import STACK
from containers.findings import Check, Expected, Finding
from containers.image_tree import ImageTree

NAME = "interpreter"
PYTHON = f"{STACK}/bin/python"
# The two lines by which uv's relocatable scripts find the interpreter beside them.
_BESIDE = re.compile(r"'''exec' \"\$\(dirname -- \"\$\(realpath -- \"\$0\"\)\"\)\"/'?([\w.]+)'?")
_PLAIN = re.compile(r"'''exec' (\S+)")


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result = Check(NAME, expected)
    if expected.line is None and tree.entry(STACK) is None:
        result.unknown("interpreter", expected.unknown)
        return result.findings
    real = tree.real(PYTHON)
    claims = tree.elf(PYTHON)
    link = tree.entries.get(PYTHON)
    wanted = f"a program for {expected.platform.machine} in the image"
    if real is None or claims is None:
        leads = f"leads to {link.target}, which is not there" if link else "is missing"
        result.wrong("interpreter", leads if real is None else f"{real} is no program", wanted, PYTHON)
    elif claims.machine != expected.platform.machine:
        result.wrong("interpreter", f"{real} is for {claims.machine}", wanted, PYTHON)
    elif expected.python and not real.endswith(f"python{expected.python}"):
        result.wrong("interpreter", real, f"Python {expected.python}", PYTHON)
    scripts = _scripts(tree, expected, result)
    return result.tally("interpreter", f"{real}; {scripts} scripts find theirs", PYTHON)


def _scripts(tree: ImageTree, expected: Expected, result: Check) -> int:
    count = 0
    for path in tree.matching(f"{STACK}/bin/*") + tree.matching("/slipworks/bin/*"):
        text = tree.text(path) or ""
        if text.startswith("#!"):
            count += 1
            try:
                asked = _asked(text, path)
            except ValueError as bad:
                result.wrong("script", f"asks for nothing that can be told: {bad}", "a program", path)
                continue
            for program in asked:
                if not _found(tree, program, expected.path):
                    result.wrong("script", f"asks for {program}", "a program in the image", path)
    return count


def _asked(text: str, path: str) -> list[str]:
    """The programs that a script needs to begin: its shebang's, and those of the trick for long paths.
    ValueError where they cannot be told."""
    lines = text.splitlines()
    words = lines[0].removeprefix("#!").split()
    if not words:
        raise ValueError("no program after #!")
    asked = words[:1]
    if words[0].endswith("/env"):
        asked += [word for word in words[1:] if not word.startswith("-") and "=" not in word][:1]
    if len(lines) > 1 and lines[1].startswith("'''exec'"):
        if beside := _BESIDE.match(lines[1]):
            asked.append(f"{path.rpartition('/')[0]}/{beside[1]}")
        elif plain := _PLAIN.match(lines[1]):
            asked += shlex.split(plain[1])[:1]
    return asked


def _found(tree: ImageTree, program: str, path: tuple[str, ...]) -> bool:
    places = [program] if "/" in program else [f"{folder}/{program}" for folder in path]
    return any((entry := tree.entry(place)) is not None and entry.kind == "file" for place in places)
