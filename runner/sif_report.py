"""What is told of SIFs while they are made, and the report in the end."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from kit import files, progress, say
from kit.errors import PrebuildError
from runner import shown
from runner.sif_making import Done

GOOD = ("there", "made", "fetched")


class Report(Struct, frozen=True, kw_only=True):
    """All of a run. part: "2/4" where only that part of the list was for it. seconds: of the whole.
    fetch: it was for the layers alone, so that it says nothing of SIFs."""

    list: str
    platform: str
    part: str | None
    fetch: bool = False
    seconds: float
    counts: dict[str, int]
    images: tuple[Done, ...]

    @property
    def mapped(self) -> bool:
        """Whether it says what each image's SIF is."""
        return not self.part and not self.fetch

    @property
    def bad(self) -> tuple[Done, ...]:
        return tuple(each for each in self.images if each.state not in GOOD)

    @property
    def line(self) -> str:
        """Counts, and what failed by its class."""
        told = [f"{count} {state}" for state, count in self.counts.items()]
        classes = Counter(each.error_class or "ours" for each in self.bad)
        why = f" ({', '.join(f'{count} {kind}' for kind, count in classes.most_common())})" if classes else ""
        size = shown.size(sum(each.size or 0 for each in self.images))
        return f"{', '.join(told) or 'nothing to do'}{why}; {size} of SIFs, in {self.seconds:.0f} s"


def report(
    list_: str, platform: str, part: str | None, done: Sequence[Done], seconds: float, *, fetch: bool = False
) -> Report:
    counts = Counter(each.state for each in done)
    order = [*GOOD, "left", "failed"]
    return Report(
        list=list_, platform=platform, part=part, fetch=fetch, seconds=round(seconds, 1), images=tuple(done),
        counts={state: counts[state] for state in order if counts[state]},
    )  # fmt: skip


def write(made: Report, folder: Path) -> Path:
    """report.json, report.md for people, and the map sifs.json; of a part, under names of its own, without
    the map, as of layers that were fetched. Atomic each. Returns the first."""
    name = f"report-{made.part.replace('/', '-of-')}" if made.part else "report"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    files.write(folder / f"{name}.md", _text(made))
    files.write(path, msgspec.json.format(msgspec.json.encode(made)))
    if made.mapped:
        write_map(made.images, map_of(path))
    return path


def map_of(report: Path) -> Path:
    """Beside a report."""
    return report.with_name("sifs.json")


def _text(made: Report) -> str:
    part = f", part {made.part}" if made.part else ""
    lines = [f"# SIFs of {made.list} for {made.platform}{part}", "", made.line, ""]
    if made.bad:
        lines += ["| image | class | what | do |", "|---|---|---|---|"]
        cells = ((each.reference, each.error_class, each.error, each.hint) for each in made.bad)
        lines += ["| " + " | ".join(_cell(text or "") for text in row) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.splitlines()[0].replace("|", "\\|") if text else ""


def demand(made: Report, path: Path) -> None:
    """PrebuildError where not every image is there: which kinds, and the first of them."""
    if not made.bad:
        return
    first = made.bad[0]
    raise PrebuildError(
        f"{len(made.bad)} of {len(made.images)} SIFs could not be made; {first.reference}: {first.error}",
        first.hint or f"the others: {path.with_suffix('.md')}; the same command goes on",
    )


def write_map(done: Sequence[Done], path: Path) -> None:
    """The map that a training needs: from every image, and every name of it, to its SIF. Atomic."""
    pairs = {name: each.sif for each in done if each.sif for name in (each.reference, *each.names)}
    files.write(path, msgspec.json.format(msgspec.json.encode(pairs)))


@contextlib.contextmanager
def following(title: str, total: int, every: float) -> Iterator[Callable[[Done], None]]:
    """Yields what is told of each image (see kit/progress.py); what fails is told at once."""
    count = bad = 0
    with progress.bar(title, total, every) as update:

        def told(done: Done) -> None:
            nonlocal count, bad
            count += 1
            if done.state == "failed":
                bad += 1
                say.say(f"{done.reference}: {done.error_class}: {(done.error or '').splitlines()[0]}")
            update(count, f"{bad} failed" if bad else "")

        yield told
