"""Templates of batch scripts, read by Jinja once."""

from __future__ import annotations

import sys
from pathlib import Path

import jinja2
import pytest

from slurm import template

WHOLE = """#!/bin/bash
{% for each in names %}
    {% if a or b %}
  {{ each }}-{{ c }}{% include "part.j2" %}
    {% endif %}
{% endfor %}
<# a comment #>
{# no comment #}
"""
VALUES = {"names": ["x", "y"], "a": "", "b": [1], "c": 3, "d": "{{ c }} <&>"}
TEXT = "#!/bin/bash\n  x-3 and {{ c }} <&>\n  y-3 and {{ c }} <&>\n{# no comment #}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "whole.j2").write_text(WHOLE)
    (tmp_path / "part.j2").write_text(" and {{ d }}\n")
    return tmp_path


def text(folder: Path) -> str:
    return template.load("whole.j2", folder).render(VALUES)


def test_it_is_what_jinja_makes_of_it(folder: Path) -> None:
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, comment_start_string="<#", comment_end_string="#>",
    )  # fmt: skip
    assert text(folder) == text(folder) == TEXT == jinja.get_template("whole.j2").render(VALUES)


def test_jinja_is_asked_no_more_than_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert text(folder) == TEXT
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert text(folder) == TEXT


def test_whatever_has_changed_is_read_again(folder: Path) -> None:
    text(folder)
    (folder / "part.j2").write_text(" or {{ d }}\n")
    assert " or " in text(folder)
    (folder / "whole.j2").write_text("{{ d }}")
    assert text(folder) == "{{ c }} <&>"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"made_of":""}', b'{"made_of":1,"body":[]}', b"\xff"])
def test_what_is_damaged_is_read_again(folder: Path, raw: bytes) -> None:
    text(folder)
    (kept,) = (folder / "__pycache__").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(raw)
    assert text(folder) == TEXT
    assert kept.read_bytes() == whole


def test_where_nothing_can_be_kept_nothing_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "__pycache__").write_text("in the way")
    assert text(folder) == TEXT
    (folder / "__pycache__").unlink()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert text(folder) == TEXT
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        "{{ a.b }}", "{{ f() }}", "{{ a | upper }}", "{{ 1 }}", "{{ a or b }}", "{% if a and b %}{% endif %}",
        "{% if a %}{% else %}b{% endif %}", "{% if a %}{% elif b %}{% endif %}", "{% set a = 1 %}",
        "{% for a in b if c %}{% endfor %}", "{% for a, b in c %}{% endfor %}", "{% include a %}",
        "{% macro a() %}{% endmacro %}",
    ],
)  # fmt: skip
def test_templates_substitute_and_nothing_else(folder: Path, wrong: str) -> None:
    (folder / "part.j2").write_text(f"\n{wrong}")
    with pytest.raises(ValueError, match=r"line 2: found .* nothing else"):
        text(folder)


def test_a_name_without_a_value_is_an_error(folder: Path) -> None:
    with pytest.raises(KeyError, match="names"):
        template.load("whole.j2", folder).render({})
