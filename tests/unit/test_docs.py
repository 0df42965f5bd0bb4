"""What the README and docs point to is there, and what they show can be run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import cli
from tests.pages import separate

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Headings as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def dead(page: Path) -> list[str]:
    found = []
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# A b\n[x](none.md) [y](#a-b) [z](#c) [w](https://example.org)\n")
    assert dead(page) == ["none.md", "#c"]


@pytest.fixture
def script_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], str]:
    """The script of the job that a how-to shows first, as it stands there, on a cluster."""

    def made(page: str, cluster: str) -> str:
        job = tmp_path / "job.yaml"
        job.write_text(separate((ROOT / "docs/how-to" / page).read_text(), "yaml")[0])
        monkeypatch.setenv("SCRATCH", str(tmp_path))
        assert cli.main(["submit", str(job), "--cluster", cluster, "--dry-run", "sbatch.account=A1"]) == 0
        return capsys.readouterr().out

    return made


def test_the_job_of_the_how_to_runs_as_it_stands(script_of: Callable[[str, str], str]) -> None:
    assert "#SBATCH --job-name=hello" in script_of("submit-a-job.md", "vista")


def test_the_job_of_the_page_on_sandboxes_has_two_parts(script_of: Callable[[str, str], str]) -> None:
    head, second = script_of("sandboxes.md", "jureca").split("#SBATCH hetjob\n")
    assert "#SBATCH --gres=gpu:4\n" in head and "#SBATCH --partition=cpu\n" in second
    assert "#SBATCH --cpus-per-task=48\n" in second and "gres" not in second.partition("\n\n")[0]


COMMAND = re.compile(r"`?(?:^|(?<=; )|(?<=`))runner (?:[^\n`;#]|`(?=`))+", re.MULTILINE)


def shown(page: Path) -> list[list[str]]:
    """The commands of the kit that a page shows, word by word; what stands for a name is one."""
    found = COMMAND.findall(page.read_text())
    return [shlex.split(each.strip("`"))[1:] for each in found if "…" not in each]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_is_one(page: Path) -> None:
    for words in shown(page):
        if words and words[0] == "prebuild" and len(words) > 1:
            cli.parsed(words)


def test_the_pages_show_commands() -> None:
    assert ["prebuild", "run"] in shown(ROOT / "README.md")
    told = [words for page in PAGES for words in shown(page) if words[:2] == ["prebuild", "sif"]]
    assert len(told) > 5 and any("--slurm" in words for words in told)


def test_every_key_that_the_how_to_lists_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/how-to/submit-a-job.md").read_text()
    listed = re.findall(r"^\| `(\w+): (.+?)` \|", text, re.MULTILINE)
    assert len(listed) > 8
    (tmp_path / "src/my-trainer").mkdir(parents=True)
    data = [f"{key}: {value}\n".replace("~/", f"{tmp_path}/").replace("/scratch/me/data", str(tmp_path))
            for key, value in listed]  # fmt: skip
    job = tmp_path / "job.yaml"
    job.write_text("name: j\narch: cpu\nrun: 'true'\ntime: '60'\n" + "".join(data))
    assert cli.main(["submit", str(job), "--cluster", "generic", "--explain"]) == 0, capsys.readouterr().err
