"""The one door to the hub: huggingface_hub lists, its `http_get` brings the bytes, and it makes the snapshot.

Its own download keeps nothing of a file whose transfer breaks off (2.x), which is much of a model. So a file
comes here into a part beside its place, from where it goes on, within a process and from one to the next; it
is put in place only if it hashes to what the hub promised. The hub's quicker protocol, Xet, is not used for
that reason, but for files over 50 GB, which come by no other.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from kit import files
from kit.errors import (
    AuthError,
    HashMismatchError,
    MissingToolError,
    NetworkError,
    NotFoundError,
    QuotaError,
    SlipworksError,
)
from runner.staging.asked import Item
from runner.staging.cache import Place

ARRIVED = Callable[[int], None]
"""Is told how many bytes more there are."""


class File(Struct, frozen=True):
    """A file of a commit. hash: sha256 of a large one's content, else git's id of it; its blob's name."""

    name: str
    size: int
    hash: str
    large: bool

    def part(self, blobs: Path) -> Path:
        """Where it grows."""
        return blobs / f"{self.hash}.slipworks-part"

    def there(self, blobs: Path) -> bool:
        """Whether it is whole, as far as its size tells."""
        try:
            return (blobs / self.hash).stat().st_size == self.size
        except OSError:
            return False

    def left(self, blobs: Path) -> int:
        """Bytes that have to come yet."""
        if self.there(blobs):
            return 0
        with contextlib.suppress(OSError):
            return max(0, self.size - self.part(blobs).stat().st_size)
        return self.size


class Stopped(Exception):
    """Another file failed: this one need not come."""


class Hub:
    """token: None: the one that the hub's own library knows."""

    def __init__(self, token: str | None) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors, file_download, utils
        except ImportError:
            raise MissingToolError(
                "huggingface_hub is not installed here, so nothing can be staged",
                "runner stage JOB in the checkout, on a login node",
            ) from None
        # Any: of most of what is used here the package says nowhere that it exports it.
        self._hub: Any = huggingface_hub
        self._constants: Any = constants
        self._errors: Any = errors
        self._files: Any = file_download
        self._utils: Any = utils
        self._utils.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self._token = token
        self.endpoint = str(constants.ENDPOINT)
        self._api = huggingface_hub.HfApi(self.endpoint, token=token, library_name="slipworks")

    def commit(self, item: Item) -> str:
        """The commit that the item's revision is now. AuthError, NotFoundError, NetworkError, QuotaError."""
        with self._worded(item):
            about = self._api.repo_info(item.id, repo_type=item.kind, revision=item.revision)
        return str(about.sha)

    def files(self, item: Item, commit: str) -> tuple[File, ...]:
        """Those that the item's patterns take. Errors as of `commit`; NotFoundError where they take none."""
        with self._worded(item):
            tree = list(
                self._api.list_repo_tree(item.id, repo_type=item.kind, revision=commit, recursive=True)
            )
        found = [_file(each) for each in tree if hasattr(each, "blob_id")]
        patterns = list(item.patterns) or None
        taken: tuple[File, ...] = tuple(
            self._utils.filter_repo_objects(found, allow_patterns=patterns, key=lambda file: file.name)
        )
        if not taken:
            raise NotFoundError(
                f"no file of {item.told} matches {', '.join(item.patterns)}: it has "
                f"{', '.join(sorted(file.name for file in found)[:5])} …"
                if item.patterns and found
                else f"there is no file in {item.told}"
            )
        return taken

    def fetch(self, place: Place, commit: str, file: File, arrived: ARRIVED, stop: threading.Event) -> None:
        """Brings one blob, going on where an earlier try broke off. Idempotent; one process a repository.

        HashMismatchError for other bytes than the hub promised: then nothing is kept. Else as of `commit`.
        """
        blob, part = place.blobs / file.hash, file.part(place.blobs)
        if file.there(place.blobs):
            return
        blob.unlink(missing_ok=True)
        if file.size > self._constants.MAX_HTTP_DOWNLOAD_SIZE:  # `snapshot` brings it: see the module's words
            return
        item = place.item
        url = self._hub.hf_hub_url(
            item.id, file.name, repo_type=item.kind, revision=commit, endpoint=self.endpoint
        )
        headers = {**self._utils.build_hf_headers(token=self._token), "Accept-Encoding": "identity"}
        part.parent.mkdir(parents=True, exist_ok=True)
        with files.space_named(blob):
            with part.open("a+b") as raw, self._worded(item, file.name):
                taken = _Taken(raw, file, arrived, stop)
                self._files.http_get(
                    url, taken, resume_size=taken.size, headers=headers, expected_size=file.size
                )
            if taken.hash != file.hash:
                part.unlink(missing_ok=True)
                raise HashMismatchError(
                    f"{file.name} of {item.told} came with hash {taken.hash}, expected {file.hash}",
                    "the same command again; a proxy on the way may change what it passes on",
                )
            files.settle(part, blob)

    def snapshot(self, place: Place, commit: str) -> None:
        """Lays out the commit's files, whose blobs are there, as the hub's library wants to find them."""
        item = place.item
        with self._worded(item):
            self._hub.snapshot_download(
                item.id, repo_type=item.kind, revision=commit, cache_dir=place.home / "hub",
                token=self._token,
                allow_patterns=list(item.patterns) or None, endpoint=self.endpoint,
            )  # fmt: skip

    @contextlib.contextmanager
    def _worded(self, item: Item, file: str | None = None) -> Iterator[None]:
        """Turns the library's failures into ours; its own words may hold addresses with signatures."""
        errors = self._errors
        what = f"{file} of {item.told}" if file else item.told
        try:
            yield
        except (SlipworksError, Stopped):
            raise
        except errors.OfflineModeIsEnabled as off:
            raise NetworkError(
                f"could not look for {what}: HF_HUB_OFFLINE is set here",
                "unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE",
            ) from off
        except errors.HTTPError as failed:
            raise self._told(failed, what, item) from failed
        except (errors.EntryNotFoundError, OSError) as failed:
            cause = failed.__cause__
            if isinstance(cause, errors.HTTPError):
                raise self._told(cause, what, item) from failed
            if "Consistency check failed" in str(failed):
                raise NetworkError(
                    f"{what} came in another length than the hub promised", "the same again"
                ) from failed
            if isinstance(failed, errors.EntryNotFoundError):
                raise NetworkError(f"could not get {what} from {self.endpoint}") from failed
            raise

    def _told(self, failed: Exception, what: str, item: Item) -> SlipworksError:
        response: Any = getattr(failed, "response", None)
        code = getattr(response, "status_code", None)
        if code in (401, 403):
            gated = type(failed).__name__ == "GatedRepoError"
            folder = "datasets/" if item.kind == "dataset" else ""
            return AuthError(
                f"{self.endpoint} does not give us {what} ({code}): "
                + (
                    "its terms were not accepted" if gated else "it is private, or there is none of that name"
                ),
                f"accept them at {self.endpoint}/{folder}{item.id}, then runner secrets set HF_TOKEN"
                if gated
                else "runner secrets set HF_TOKEN" + ("  # another token" if self._token else ""),
            )
        if code == 404:
            return NotFoundError(f"{self.endpoint} has no {what} (404)")
        if code == 429:
            return QuotaError(
                f"{self.endpoint} is asked too often for {what} (429)", "runner secrets set HF_TOKEN"
            )
        if code is not None:
            return NetworkError(f"{self.endpoint} answered {code} for {what}", "the same command again later")
        return NetworkError(
            f"could not get {what} from {self.endpoint}: {type(failed).__name__}", f"curl -I {self.endpoint}"
        )


def _file(entry: Any) -> File:
    if entry.lfs is not None:
        return File(entry.path, entry.lfs.size, entry.lfs.sha256, True)
    return File(entry.path, entry.size, entry.blob_id, False)


class _Taken:
    """A part that hashes what goes into it. The library writes, and begins anew where it has to."""

    def __init__(self, raw: BinaryIO, file: File, arrived: ARRIVED, stop: threading.Event) -> None:
        self._raw, self._file, self._arrived, self._stop = raw, file, arrived, stop
        if raw.seek(0, 2) > file.size:
            raw.truncate(0)
        self.size = raw.seek(0, 2)
        self._begin()
        raw.seek(0)
        while piece := raw.read(1 << 20):
            self._seen.update(piece)

    def _begin(self) -> None:
        self._seen = hashlib.sha256() if self._file.large else hashlib.sha1(b"blob %d\0" % self._file.size)

    @property
    def hash(self) -> str:
        return self._seen.hexdigest()

    def write(self, piece: bytes) -> int:
        if self._stop.is_set():
            raise Stopped
        self._seen.update(piece)
        self.size += len(piece)
        self._arrived(len(piece))
        return self._raw.write(piece)

    def tell(self) -> int:
        return self._raw.tell()

    def seek(self, to: int, whence: int = 0) -> int:
        return self._raw.seek(to, whence)

    def truncate(self, size: int | None = None) -> int:
        """Only to nothing: a server that does not know ranges sends all of it again."""
        left = self._raw.truncate(size)
        assert left == 0
        self._arrived(-self.size)
        self.size = 0
        self._begin()
        return left
