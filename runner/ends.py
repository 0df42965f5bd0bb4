"""How a node can end: as exceptions, and as the signals that ask for it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from kit.errors import InvalidFileError, LaunchError, MissingToolError, SlipworksError, UnsupportedError
from runner.meeting import Late

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """The node is asked to end; carries the exit code. Once asked, it is not asked again: see `signals`."""

    asked = False

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        Stopped.asked = True


class HeadEnded(BaseException):
    """The head has ended, and with it the job."""


class Died(LaunchError):
    """Something that ran has ended before its time: Ray, a service, another node.

    The cause may be a stop that has not been heard yet, for Slurm's TERM reaches all processes of a step in
    any order. Whoever reports one hears first: see Node.heed_stop.
    """


class CommandFailed(Died):
    """The job's command ended badly on a node that is not the first."""


class Lost(Died):
    """Another node gives no sign of life any more."""


class HeadLost(Lost):
    """The first node gives none, and its machine was the batch script's: nobody else tells Slurm."""


class Hopeless(Died):
    """Another node could not begin, and would not in another attempt."""


def hopeless(failure: SlipworksError) -> bool:
    """Whether what kept a node from beginning would keep the next attempt's from it, too.

    So it is for all that is wrong with the job, its image or a driver; not for what died, was silent
    or came too late, nor for a full disk or a network that was away.
    """
    if isinstance(failure, Died | Late):
        return isinstance(failure, Hopeless)
    return isinstance(failure, LaunchError | MissingToolError | InvalidFileError | UnsupportedError)


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """TERM, INT and HUP raise Stopped in the main thread, wherever it is; only the first one does.

    A second, such as the engine's after the launcher's word, would break off the ending itself. USR1 and
    USR2, which Slurm may send to all processes of a step, are for the command: they do nothing here.
    """
    Stopped.asked = False

    def stop(number: int, frame: object) -> None:
        if Stopped.asked:
            return
        raise Stopped(128 + number, f"{signal.Signals(number).name} came")

    for sign in SIGNALS:
        signal.signal(sign, stop)
    for sign in (signal.SIGUSR1, signal.SIGUSR2):  # not SIG_IGN: the command would begin with that
        signal.signal(sign, lambda number, frame: None)
    yield


def deaf() -> None:
    """From here on no signal that asks for an end is heard: what follows is short and must be finished."""
    for sign in SIGNALS:
        signal.signal(sign, signal.SIG_IGN)
