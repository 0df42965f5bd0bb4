"""The how-to's example is a fix like any other."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from runner import fixing

PAGE = Path(fixing.__file__).parents[1] / "docs/how-to/add-a-fix.md"


def test_the_example_is_one() -> None:
    text = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    fix = ModuleType("slow_names")
    exec(compile(text, "slow_names.py", "exec"), fix.__dict__)
    example = fix.EXAMPLE
    assert fix.applies(example.facts, example.before)
    assert fix.apply(example.facts, example.before) == example.after
    assert fix.applies(example.facts, example.after) is None
    assert all(word in str(fix.__doc__) for word in ("\n\nSymptom: ", "\nCause: ", "\nRemove when: "))
