"""Whether an image is what its record says, and its bytes what they were."""

from __future__ import annotations

import os
from pathlib import Path

from image_cache.store import Store
from kit import say
from kit.errors import HashMismatchError, InvalidFileError
from kit.nouns import digest, digest_file
from runner.known import Known

LARGE = 100 << 20  # bytes of a file from which on it is told that it is read


def demand(about: Known, found: str | None) -> None:
    """HashMismatchError where something is not what the record says. A bill of materials runs nothing."""
    harmless = "the bill of materials"
    sif = about.record.sif
    wrong = [
        each for each in about.wrong
        if not each.startswith(harmless) and not (sif and each == f"{sif.file} is not in the store")
    ]  # fmt: skip
    if found and sif and found != sif.digest:
        wrong.insert(0, f"it hashes to {found}, its record says {sif.digest}")
    if wrong:
        raise HashMismatchError(
            f"the image {about.image.name} is not what its record says: {wrong[0]}",
            f"runner image verify {about.image.name}",
        )


def without_record(name: str) -> None:
    say.once(f"warning: {name} has no record: what is in it, and which driver it needs, is not known")


def hashed(store: Store, path: Path) -> str:
    """The digest of a file's bytes. One that was read before and was not touched since is not read again."""
    try:
        told = path.stat()
    except OSError as gone:
        raise InvalidFileError(f"cannot read {path}: {gone.strerror}") from gone
    state = f"{told.st_size} {told.st_ino} {told.st_mtime_ns} {told.st_ctime_ns}"
    place = digest(os.fsencode(path))
    noted = (store.note(place, "hashed") or b"").decode()
    before, _, known_state = noted.partition(" ")
    if before and known_state == state:
        return before
    if told.st_size >= LARGE:
        with say.step(f"reading {path.name} once, for its digest"):
            found = digest_file(path)
    else:
        found = digest_file(path)
    store.put_note(place, "hashed", f"{found} {state}".encode())
    return found
