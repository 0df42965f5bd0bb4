"""What the how-to pages tell to type is understood; and what they submit comes to a batch script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from runner import cli
from tests.golden import examples
from tests.pages import PAGES, typed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one(page: Path) -> None:
    for words in typed(page):
        cli.parsed([each.strip("[]") for each in words])


def test_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "x\n```\nrunner a 'b c' # d\ne; runner f; g | runner h \\\n  --i\nrunner …\n```\nrunner j\n"
    )
    assert typed(page) == [["a", "b c"], ["f"], ["h", "--i"]]
    assert len([words for page in PAGES for words in typed(page)]) > 40


def submitted() -> list[tuple[str, str, tuple[str, ...]]]:
    """File, cluster and overrides of each example that a page submits."""
    found = []
    for words in [words for page in PAGES for words in typed(page) if words[0] == "submit"]:
        args = cli.parsed(words)
        file = str(args.job).removeprefix("examples/")
        if file != str(args.job) and not file.startswith("hello-grpo/"):  # that one is run by a live test
            found.append((file, args.cluster or "jureca", tuple(args.override)))
    return found


@pytest.mark.parametrize(("file", "cluster", "overrides"), dict.fromkeys(submitted()))
def test_an_example_that_a_page_submits_becomes_a_script(
    file: str, cluster: str, overrides: tuple[str, ...]
) -> None:
    (known,) = [each for each in examples.ALL if each.file == file]
    home = {**known.home, "mine.yaml": "num_learners_per_node: [1, 1]\n"}
    asked = structs.replace(known, clusters=(cluster,), overrides={cluster: overrides}, home=home)
    assert cluster in known.clusters
    found = examples.dry(asked, cluster)
    assert f"#SBATCH --job-name={found.job.name}\n" in found.script
    text = repr(found.job).replace("'", "")
    for key, _, value in (each.partition("=") for each in overrides):
        said = rf"\b{key.rpartition('.')[2]}[=:] ?\S*{re.escape(value.removeprefix('~'))}\b"
        assert re.search(said, text), f"{key} is not {value}"
