"""The log of a run: all that a node printed, and on the first node that is the command's output.

With -f it goes on as the log grows, into further attempts too, until the run has ended. Where the logs of a
failed run have a failure that is known, a line at the end, on stderr, says what to do: see runner why.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.run_states import Now

HELP = "show a run's log"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="see runner status")
    parser.add_argument("-f", "--follow", action="store_true", help="until the run has ended")
    parser.add_argument("--node", default="0", help="its number, or its host's name (default: 0)")
    parser.add_argument("--service", metavar="NAME", help="what a service of that node printed instead")
    parser.add_argument("--attempt", type=int, help="which start of the job (default: the latest)")
    parser.add_argument("--json", action="store_true", help="only where the logs are, as JSON")


def run(args: argparse.Namespace) -> int:
    import sys

    from kit import exact, say
    from kit.errors import UsageError
    from runner import following, run_names, watching

    if args.follow and (args.attempt is not None or args.json or args.service):
        raise UsageError(
            "--follow goes from attempt to attempt and prints a node's text", f"runner logs -f {args.run}"
        )
    folder = run_names.find(args.run, run_names.folder_of_runs())
    watch = watching.Watch()
    if args.follow:
        followed = following.Follow(folder, args.node, lambda: watch.anew(folder), sys.stdout.buffer)
        followed.run()
        _tell_why(watch.by_files(folder), None)
        return 0
    now = watch.by_files(folder)
    if args.json:
        say.answer(exact.encode(list(following.logs(now))).decode())
    else:
        following.show(now, args.node, args.attempt, args.service)
        _tell_why(now, args.attempt)
    return 0


def _tell_why(now: Now, number: int | None) -> None:
    """A line at the end, where the run failed and it is known by what."""
    from kit import say
    from runner.why import searching

    if line := searching.note(now, number):
        say.say(line)
