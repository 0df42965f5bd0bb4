"""The steps of a training log in SkyRL's form, each with its number and with what it lacks.

Read tolerantly: colours, Ray's prefixes, progress bars, several markers in a line, `nan` and `inf`.

A log has no numbers of steps, only the order of `Started: 'step'`. So they are counted, and
  - a trainer that goes on from a checkpoint says from which step, and is believed;
  - one that starts anew after a step (`Started: 'load_checkpoints'` or `'init_weight_sync_state'`), and does
    not say so, begins at 1;
  - where another log of the same run begins without a word of either, counting goes on;
  - a step that samples again (dynamic sampling) stays one step, and its times add up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # colours, clearing of lines
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles
    r"|[ -/]+[0-~])"  # character sets
)
_NUMBER = r"(?i:[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?))"
_MARK = re.compile(
    r"(?P<step>Started: 'step')"
    r"|(?P<start>Started: '(?:load_checkpoints|init_weight_sync_state)')"
    rf"|Finished: 'generate', time cost: (?P<seconds>{_NUMBER})s"
    rf"|avg_final_rewards: (?P<reward>\S*?), avg_response_length: (?P<length>{_NUMBER})"
    r"|(?P<again>Dynamic sampling: \d+ < \d+ prompts|Warning \(Dynamic sampling replace\))"
    r"|(?P<end>Finished: 'step')"
    r"|Resum(?:ing|ed training) from global_step:? (?P<resumed>\d{1,9})(?!\d)"
    r"|(?P<scratch>starting training from scratch)"
)

_WORDS = (
    "tarted: '",
    "nished: '",
    "avg_response_length",
    "ynamic sampling",
    "from global_step",
    "from scratch",
)
"""One of them is in every line that has a mark: looking for them takes a twentieth of the time."""


class Step(Struct, frozen=True, kw_only=True):
    """One training step as the log tells it; None: not told. `reward` may be nan.

    number   which step of the training, from 1; several may have the same (see the module).
    attempt  which log of the run's it stands in, from 1.
    whole    its end is in the log.
    """

    number: int = 1
    attempt: int = 1
    seconds: float | None = None
    reward: float | None = None
    length: float | None = None
    whole: bool = False

    def rate(self, trajectories: int) -> float | None:
        """Tokens per second, if all that is needed was told and is a number."""
        if self.seconds is None or self.length is None or self.seconds <= 0 or self.length < 0:
            return None
        rate = trajectories * self.length / self.seconds
        return rate if math.isfinite(rate) and math.isfinite(self.seconds) else None

    @property
    def lacks(self) -> str | None:
        """Why a step has no rate, or must not count; None: it has one."""
        if not self.whole:
            return "cut off: its end is not in the log"
        if self.seconds is None:
            return "no generate timer, as of asynchronous trainers"
        if self.length is None:
            return "no avg_response_length"
        if self.rate(1) is None:
            return f"no number comes of {self.length:g} tokens in {self.seconds:g} s"
        return None


def steps(lines: Iterable[str]) -> list[Step]:
    """The steps of one log, in its order."""
    return of_run([lines])


def of_run(logs: Iterable[Iterable[str]]) -> list[Step]:
    """The steps of a run's logs, an attempt each, in their order."""
    reading = _Reading()
    for attempt, lines in enumerate(logs, 1):
        reading.attempt, reading.open, reading.again = attempt, False, False
        for line in lines:
            plain = _ESCAPE.sub("", line) if "\x1b" in line else line
            if any(word in plain for word in _WORDS):
                for mark in _MARK.finditer(plain):
                    reading.take(mark)
    return reading.found


@dataclass
class _Reading:
    """What was read so far. next: the number of the next step; fresh: none since the trainer's start.

    open   a step was begun, and its end was not read: what is told belongs to it.
    again  it samples once more.
    """

    found: list[Step] = field(default_factory=list)
    attempt: int = 1
    next: int = 1
    fresh: bool = True
    open: bool = False
    again: bool = False

    def take(self, mark: re.Match[str]) -> None:
        kind, text = mark.lastgroup, mark[mark.lastgroup or 0]
        if kind == "step":
            self._begin()
        elif kind == "start":
            if not self.fresh:
                self._anew(1)
        elif kind == "resumed":
            self._anew(int(text) + 1)
        elif kind == "scratch":
            self._anew(1)
        elif self.open:
            self._tell(mark)

    def _begin(self) -> None:
        if self.again:
            self.found[-1] = replace(self.found[-1], whole=False)
        else:
            self.found.append(Step(number=self.next, attempt=self.attempt))
            self.next += 1
        self.open, self.fresh, self.again = True, False, False

    def _anew(self, number: int) -> None:
        self.next, self.fresh, self.open, self.again = number, True, False, False

    def _tell(self, mark: re.Match[str]) -> None:
        now = self.found[-1]
        if mark["seconds"] is not None:
            now = replace(now, seconds=(now.seconds or 0.0) + float(mark["seconds"]))
        elif mark["length"] is not None:
            now = replace(now, reward=_number(mark["reward"]), length=float(mark["length"]))
        elif mark["again"]:
            self.again = True
        else:
            now = replace(now, whole=True)
            self.open = False
        self.found[-1] = now


def _number(text: str) -> float:
    """nan for what is no number: a reward that cannot be read loses no step."""
    try:
        return float(text)
    except ValueError:
        return math.nan
