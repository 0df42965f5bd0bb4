"""The end of sandboxes by a command: by their server where one runs, else by their engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import structs

from runner.sandboxes import here, records
from runner.sandboxes.here import Seen

AT_ONCE = 8


def stop(meant: Sequence[Seen]) -> None:
    """Ends them, several at a time; of those by hand the record goes, too. Idempotent. All are tried; the
    first failure is raised then."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for each in [pool.submit(_stop, one) for one in meant]:
            each.result()


def _stop(seen: Seen) -> None:
    session, folder = seen.session, seen.folder
    if session.engine:
        here.engine(session).stop(session.id)
    if seen.by_hand:
        records.drop(folder, session.id)
    elif session.live:
        records.write(folder, structs.replace(session, phase="stopped", ended=time.time()))
        records.clear(folder, session.id)
