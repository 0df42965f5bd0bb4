"""Brings what a job needs into the cache, from the login node: plan, room, download, records. Idempotent."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from image_cache.claim import Claim
from kit import files, progress, say
from kit.errors import InvalidFileError, NetworkError, NoSpaceError
from runner.staging import staged, tasks
from runner.staging.asked import INSIDE, Item
from runner.staging.cache import Home, Place
from runner.staging.hub import File, Hub, Stopped
from runner.staging.staged import Record

AT_ONCE = 6  # files
MB = 1_000_000


class Found(Struct, kw_only=True):
    """An item, and what is known of it. record: all of it lies there; None: `files` have to be brought."""

    place: Place
    commit: str
    record: Record | None = None
    files: tuple[File, ...] = ()

    @property
    def size(self) -> int:
        return self.record.size if self.record else sum(file.size for file in self.files)


def missing(found: Sequence[Found]) -> list[tuple[Found, File]]:
    """What has to come, once each: two names, or two items, may have one content."""
    blobs = {each.place.blobs / file.hash: (each, file)
             for each in found if not each.record for file in each.files}  # fmt: skip
    return [(each, file) for each, file in blobs.values() if not file.there(each.place.blobs)]


def left(found: Sequence[Found]) -> int:
    """Bytes that have to come."""
    return sum(file.left(each.place.blobs) for each, file in missing(found))


def look(items: Sequence[Item], home: Home, token: str | None) -> list[Found]:
    """What has to be brought. Asks the hub which commit a branch is now; where it cannot be reached, what was
    staged before counts, and that is told. Errors as of Hub.commit and Hub.files."""
    hub = Hub(token) if importlib.util.find_spec("huggingface_hub") else None
    return [_look(Place(home.here, item), hub) for item in items]


def bring(found: Sequence[Found], home: Home, token: str | None) -> list[Found]:
    """Brings all of it, in one step; each then has its record. May be interrupted, and goes on where it was.

    NoSpaceError before anything is brought where it would not fit; else errors as of Hub.fetch.
    """
    with _claimed([each.place for each in found]):
        found = [_again(each) for each in found]
        _demand_room(found, home.here)
        lacking = [each for each in found if each.record is None]
        if lacking:
            hub = Hub(token)
            _fetch(hub, lacking)
            for each in lacking:
                hub.snapshot(each.place, each.commit)
        done = [_recorded(each) for each in found]
        for each in done:
            _point(each)
        return done


def _look(place: Place, hub: Hub | None) -> Found:
    commit = place.item.revision if place.ref is None else None
    if commit is None and hub is not None:
        try:
            commit = hub.commit(place.item)
        except NetworkError as away:
            commit = _before(place)
            if commit is None:
                raise
            say.say(f"note: {away.message}: what was staged before is taken, commit {commit[:12]}")
    elif commit is None and (commit := _before(place)):
        say.say(f"note: huggingface_hub is not installed here: {place.item.told} is taken as it was staged")
    if commit and (record := _whole(place, commit)):
        return Found(place=place, commit=commit, record=record)
    hub = hub or Hub(None)  # which says that it is missing
    commit = commit or hub.commit(place.item)
    return Found(place=place, commit=commit, files=hub.files(place.item, commit))


def _before(place: Place) -> str | None:
    """The commit that was staged before, as long as all of it is there."""
    commit = place.known_commit()
    return commit if commit and _whole(place, commit) else None


def _whole(place: Place, commit: str) -> Record | None:
    """The record of a staging of which nothing is missing."""
    record = staged.read(place.home / place.record(commit))
    if record is None or (place.item.tasks and record.tasks is None):
        return None
    return None if staged.lacking(record, place.home) else record


def _again(each: Found) -> Found:
    """As it is now that nobody else brings it."""
    return Found(place=each.place, commit=each.commit, files=each.files,
                 record=each.record or _whole(each.place, each.commit))  # fmt: skip


@contextlib.contextmanager
def _claimed(places: Sequence[Place]) -> Iterator[None]:
    """Waits until no other process brings any of the repositories; all take them in one order."""
    with contextlib.ExitStack() as held:
        for folder in sorted({each.claim for each in places}):
            claim = Claim(folder)
            while not _take(claim, held):
                if owner := claim.holder():
                    say.once(
                        f"another staging of {folder.parent.name} is waited for: {owner.host}, {owner.pid}"
                    )
                time.sleep(0.5)
        yield


def _take(claim: Claim, held: contextlib.ExitStack) -> bool:
    with contextlib.ExitStack() as tried:
        if tried.enter_context(claim.taken()):
            held.push(tried.pop_all())
            return True
    return False


def _demand_room(found: Sequence[Found], home: Path) -> None:
    needed = left(found)
    there = next(each for each in (home, *home.parents) if each.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise NoSpaceError(
            f"{needed / 1e9:.1f} GB have to come to {home}, and {free / 1e9:.1f} GB are free there: nothing "
            "was downloaded",
            f"df -h {there}  # or HF_HOME=… in the job's env, with a bind that leads there",
        )


def _fetch(hub: Hub, found: Sequence[Found]) -> None:
    """All blobs, several at once; the first failure ends the others."""
    wanted = missing(found)
    total = sum(file.size for _, file in wanted)
    if not wanted:
        return
    say.say(f"staging {len(wanted)} files, {total / 1e9:.2f} GB, from {hub.endpoint}")
    stop, lock = threading.Event(), threading.Lock()
    done = total - left(found)
    with progress.bar("staged, in MB", max(1, total // MB)) as told:

        def arrived(size: int) -> None:
            nonlocal done
            with lock:
                done += size

        with ThreadPoolExecutor(AT_ONCE) as pool:
            under_way: list[Future[None]] = []
            try:
                under_way += [
                    pool.submit(hub.fetch, each.place, each.commit, file, arrived, stop)
                    for each, file in wanted
                ]
                coming: set[Future[None]] = set(under_way)
                while coming:
                    ended, coming = wait(coming, timeout=0.5, return_when=FIRST_EXCEPTION)
                    told(done // MB, f"{len(wanted) - len(coming)} of {len(wanted)} files")
                    _raise_first(ended)
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)


def _raise_first(ended: set[Future[None]]) -> None:
    """What went wrong, and not what was stopped for it."""
    failures = [failure for each in ended if not each.cancelled() and (failure := each.exception())]
    failures.sort(key=lambda failure: isinstance(failure, Stopped))
    if failures:
        raise failures[0]


def _recorded(each: Found) -> Found:
    """With the record of what was brought; tasks are extracted where they are asked for."""
    place, commit = each.place, each.commit
    if record := each.record or _whole(place, commit):  # another item's, of the same files
        return Found(place=place, commit=commit, record=record)
    record = Record(
        commit=commit, snapshot=place.snapshot(commit), files={file.name: file.size for file in each.files}
    )
    if lack := staged.lacking(record, place.home):
        raise NetworkError(
            f"{place.item.told} did not arrive whole: {lack} is not there", "the same command again"
        )
    record = _with_former_tasks(record, place)
    if place.item.tasks and record.tasks is None:
        record = _with_tasks(record, place)
    staged.write(place.home / place.record(commit), record)
    return Found(place=place, commit=commit, record=record)


def _with_former_tasks(record: Record, place: Place) -> Record:
    """With the tasks of the record that this one takes the place of, as long as all are there: they may be
    in use, whether or not this item asks for them, and whatever else was missing."""
    former = staged.read(place.home / place.record(record.commit))
    if former is None or former.tasks is None:
        return record
    made = replace(record, tasks=former.tasks, folders=former.folders)
    return record if staged.lacking(made, place.home) else made


def _with_tasks(record: Record, place: Place) -> Record:
    folder = place.home / record.snapshot
    sources = [folder / name for name in sorted(record.files) if name.endswith(".parquet")]
    if not sources:
        raise InvalidFileError(
            f"{place.item.at}: {place.item.told} has no parquet file to extract tasks from",
            f"leave out `tasks`: its files are in {INSIDE}/{place.item.name}",
        )
    out = place.home / place.tasks(record.commit)
    with say.step(f"extracting the tasks of {place.item.id}") as update:
        folders = tasks.mend(sources, out, lambda done: update(f"{done} tasks"))
    return replace(record, tasks=place.tasks(record.commit), folders=folders)


def _point(each: Found) -> None:
    """The revision's name leads to the commit from now on: not before all of it is there."""
    ref = each.place.ref
    if ref is None or each.place.known_commit() == each.commit:
        return
    files.write(each.place.home / ref, each.commit)


def token() -> str | None:
    """For the hub: the environment's, else that of `runner secrets`; None: what its own library knows."""
    from runner import own_secrets

    values, _ = own_secrets.found(["HF_TOKEN"], os.environ)
    return values.get("HF_TOKEN") or None
