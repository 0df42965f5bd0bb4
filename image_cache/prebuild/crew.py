"""Many threads at one list of images, fed from the journal, and ended in order.

The main thread alone hears of signals. When one comes, nothing new is begun, what is under way may end within
GRACE seconds, and then the signal's exception goes on its way; a thread that is still at work is left behind
(it holds nothing that a kill would harm, see journal.py).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from image_cache.places import blame
from image_cache.prebuild import planning
from image_cache.prebuild.journal import NEVER, Journal, Work
from image_cache.prebuild.schema import ErrorClass, Row
from kit.errors import NetworkError, NoSpaceError, QuotaError, SlipworksError
from kit.say import say

GRACE = 15.0
TICK = 0.5
OUTAGE = 30.0  # seconds that all images wait when nothing answers any more
HOPELESS = 20  # images that were all refused to us, and none made: so will be the rest
PATIENCE = 1800.0  # seconds of nothing but failures that pass: then the run ends, and says so

ALL = ""  # no place: images of every place

Result = tuple[Row, BaseException | None]


class Crew:
    """jobs: threads. do: makes one image, and writes down that it did; raises what went wrong.
    wait: for a registry's quota, however long; if not, images that meet it are given up in this run.
    told: hears how many are done, how many of them failed, and what else is to be said."""

    def __init__(
        self,
        journal: Journal,
        work: Work,
        do: Callable[[Row], None],
        *,
        jobs: int,
        told: Callable[[int, int, str], None] = lambda done, failed, note: None,
        wait: bool = True,
    ) -> None:
        self.journal, self.work, self.do, self.jobs = journal, work, do, jobs
        self.told, self.wait = told, wait
        self.done = self.failed = 0
        self._waiting: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._under_way: dict[int, str] = {}  # images, with their places
        self._width: dict[str, int] = {}  # of places whose quota was met: how many of theirs at once
        self._answered = time.monotonic()  # when something last went well
        self._unanswered = 0  # failures that pass, since then
        self._note = ""

    def run(self) -> None:
        """Until no image is due any more in this run. These end it early: NoSpaceError; AuthError where all
        images are refused to us; NetworkError after PATIENCE seconds of nothing but failures that pass."""
        for number in range(self.jobs):
            threading.Thread(target=self._at_work, name=f"prebuild-{number}", daemon=True).start()
        try:
            while self._feed():
                self._collect()
        except (KeyboardInterrupt, SystemExit):
            self._end_in_order()
            raise
        finally:
            for _ in range(self.jobs):
                self._waiting.put(None)

    def _at_work(self) -> None:
        while (row := self._waiting.get()) is not None:
            try:
                self.do(row)
            except BaseException as failure:
                self._results.put((row, failure))
            else:
                self._results.put((row, None))

    def _feed(self) -> bool:
        """Gives the threads something to do; False when there is nothing any more."""
        if len(self._under_way) > self.jobs + self.jobs // 2:
            return True
        room = 2 * self.jobs - len(self._under_way)
        # Those that are under way stay open in the journal, and come first: asked for and passed over.
        full = [place for place in self._width if not self._fits(place)]
        due = self.journal.next(self.work, time.time(), room + len(self._under_way), full)
        for row in [row for row in due if row.id not in self._under_way][:room]:
            if self._fits(row.place):
                self._under_way[row.id] = row.place
                self._waiting.put(row)
        return bool(self._under_way) or self.journal.next_due(self.work) is not None

    def _fits(self, place: str) -> bool:
        """After a quota was met, one image of the place probes it, or of all where it was the target's; each
        that goes well lets one more in."""
        if ALL in self._width and len(self._under_way) >= self._width[ALL]:
            return False
        if place not in self._width:
            return True
        return sum(each == place for each in self._under_way.values()) < self._width[place]

    def _collect(self) -> None:
        """Waits for a result, a little while; then takes all that are there."""
        if not self._under_way and (due := self.journal.next_due(self.work)):
            time.sleep(min(TICK, max(0.0, due - time.time())))
            self._tell(waiting=due - time.time())
            return
        try:
            self._take(*self._results.get(timeout=TICK))
            while True:
                self._take(*self._results.get_nowait())
        except queue.Empty:
            self._tell()

    def _take(self, row: Row, failure: BaseException | None) -> None:
        self._under_way.pop(row.id, None)
        if failure is None:
            if self.journal.wants(self.work, row):  # it would come up again for ever
                raise RuntimeError(
                    f"{row.base} was done ({self.work}), and the journal says that it is to do"
                )
            self.done += 1
            for place in {row.place, ALL} & self._width.keys():
                self._width[place] += 1
            self._answered, self._unanswered = time.monotonic(), 0
            return
        if isinstance(failure, NoSpaceError):
            raise failure
        kind = planning.error_class(failure)
        if kind == "quota" and self.wait:
            self._come_back(row, failure)
        elif self._is_outage(kind):
            self._wait_it_out(row, kind, failure)
        elif (seconds := planning.pause(kind, row.tries + 1, self.work == "look")) is not None:
            self._again(row, kind, failure, row.tries + 1, seconds)
        else:
            self._give_up(row, kind, failure)

    def _come_back(self, row: Row, failure: BaseException) -> None:
        """The place has had enough of us: nothing of it is due for a while. That is no try of the image."""
        seconds = (failure.seconds if isinstance(failure, QuotaError) else None) or planning.QUOTA_PAUSE
        self.journal.change(
            row, tries=row.tries, attempts=row.attempts, error_class="quota", error=message(failure)
        )  # fmt: skip
        target = blame.of_target(failure)
        self.journal.put_off(None if target else row.place, time.time() + seconds)
        self._width[ALL if target else row.place] = 1
        whose = self.journal.header.target.partition("/")[0] if target else row.place
        self._note = f"{whose} wants us to wait {planning.span(seconds)}"
        self._answered = time.monotonic()

    def _is_outage(self, kind: ErrorClass) -> bool:
        """Whether so many failed in a row, in a way that passes, that it is no fault of single images."""
        self._unanswered += kind == "transient"
        return kind == "transient" and self._unanswered > 3 * self.jobs

    def _wait_it_out(self, row: Row, kind: ErrorClass, failure: BaseException) -> None:
        """In an outage an image's tries are not used up, and none is given up, however often it failed."""
        if time.monotonic() - self._answered > PATIENCE:
            raise NetworkError(
                f"nothing went well for {planning.span(PATIENCE)}, at last: {message(failure)}",
                "run it again when the registry answers: it goes on where it was",
            )
        seconds = planning.pause(kind, max(1, row.tries), self.work == "look") or 0.0
        self._again(row, kind, failure, row.tries, max(seconds, OUTAGE))

    def _again(self, row: Row, kind: ErrorClass, failure: BaseException, tries: int, seconds: float) -> None:
        due = time.time() + seconds
        self.journal.change(row, tries=tries, due=due, error_class=kind, error=message(failure))

    def _give_up(self, row: Row, kind: ErrorClass, failure: BaseException) -> None:
        if kind == "auth" and self.work != "look" and self.done == self.failed >= HOPELESS:
            raise failure
        self.done += 1
        self.failed += 1
        state = planning.state_after(failure, looking=self.work == "look")
        if self.work == "look" and row.state == "ready":
            state = "ready"  # what was made is there, whatever became of its base
        self.journal.change(
            row, state=state, look=0, due=NEVER, error_class=kind, error=message(failure), ended=time.time()
        )

    def _end_in_order(self) -> None:
        if not self._under_way:
            return
        say(f"ending: {len(self._under_way)} images are under way (once more to end at once)")
        with contextlib.suppress(queue.Empty):
            while row := self._waiting.get_nowait():
                self._under_way.pop(row.id, None)
        end = time.monotonic() + GRACE
        while self._under_way and time.monotonic() < end:
            try:
                self._take(*self._results.get(timeout=TICK))
            except queue.Empty:
                continue

    def _tell(self, waiting: float = 0.0) -> None:
        note = self._note if waiting > 1 else ""
        self.told(self.done, self.failed, note)


def message(failure: BaseException) -> str:
    """On one line; of what nobody foresaw with its place in the code."""
    if isinstance(failure, SlipworksError):
        return failure.message.replace("\n", " ")
    trace, place = failure.__traceback__, ""
    while trace:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(failure).__name__}: {failure} ({place})".replace("\n", " ")
