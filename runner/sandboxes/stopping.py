"""The end of sandboxes by a command: by their server where one serves, else by their engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import DecodeError, Struct, json, structs

from kit.errors import HeldError, InvalidFileError
from runner.sandboxes import auth, here, places, records
from runner.sandboxes.client import Client
from runner.sandboxes.here import Seen

AT_ONCE = 8


class _Serving(Struct, frozen=True):
    url: str


def stop(meant: Sequence[Seen], grace: float = 10.0) -> None:
    """Ends them, several at a time; of those by hand the record goes, too. Idempotent. All are tried; the
    first failure is raised then.

    grace: seconds between TERM and KILL; a server that runs has its own.
    """
    with contextlib.ExitStack() as over:
        ways = {folder: _way(folder, over, grace) for folder in {each.folder for each in meant}}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for each in [pool.submit(ways[one.folder], one) for one in meant]:
                each.result()


def _way(folder: Path, over: contextlib.ExitStack, grace: float) -> Callable[[Seen], None]:
    if folder == places.by_hand():
        return lambda seen: _forgotten(seen, grace)
    try:
        over.enter_context(records.held(folder))  # no server comes while we change what it would read
    except HeldError:
        server = over.enter_context(_server(folder))
        return lambda seen: _asked(server, seen)
    return lambda seen: _stopped(seen, grace)


def _forgotten(seen: Seen, grace: float) -> None:
    _end(seen, grace)
    records.drop(seen.folder, seen.session.id)


def _stopped(seen: Seen, grace: float) -> None:
    _end(seen, grace)
    if seen.session.live:
        records.write(seen.folder, structs.replace(seen.session, phase="stopped", ended=time.time()))


def _asked(server: Client, seen: Seen) -> None:
    if seen.session.live:  # else it is about to end
        server.ask("POST", "/stop", {"runtime_id": seen.session.id})


def _end(seen: Seen, grace: float) -> None:
    if seen.session.engine:
        here.engine(seen.session).stop(seen.session.id, grace)
    records.clear(seen.folder, seen.session.id)


def _server(folder: Path) -> Client:
    """The one that serves from a state folder. InvalidFileError where that does not say how it is asked."""
    try:
        url = json.decode((folder / places.SERVER).read_bytes(), type=_Serving).url
        key = (folder / auth.FILE).read_text().strip()
    except (OSError, DecodeError) as missing:
        raise InvalidFileError(
            f"a server holds {folder}, and does not say there how it is asked: {missing}", f"ls -l {folder}"
        ) from missing
    return Client(url, key)
