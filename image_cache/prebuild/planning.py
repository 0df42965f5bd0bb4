"""What an answer means for an image, when it is tried again, and what a prebuild will cost. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from msgspec import Struct

from image_cache.places import blame
from image_cache.prebuild.schema import ErrorClass, State
from image_cache.unfit import (
    ForeignLayerError,
    LostLayerError,
    SchemaOneError,
    TooManyLayersError,
    WrongPlatformError,
)
from kit.errors import (
    AuthError,
    HashMismatchError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    QuotaError,
    SlipworksError,
)

_CLASSES: tuple[tuple[type[SlipworksError], ErrorClass], ...] = (
    (NotFoundError, "base missing"),
    (LostLayerError, "base missing"),
    (SchemaOneError, "platform"),
    (WrongPlatformError, "platform"),
    (TooManyLayersError, "platform"),
    (ForeignLayerError, "platform"),
    (AuthError, "auth"),
    (QuotaError, "quota"),
    (NetworkError, "transient"),
    (HashMismatchError, "transient"),
    (NoSpaceError, "space"),
)
_STATES: dict[type[SlipworksError], State] = {
    NotFoundError: "missing",
    WrongPlatformError: "wrong-platform",
    SchemaOneError: "schema-1",
}
TRIES: dict[ErrorClass, int] = {"transient": 6, "auth": 2}
"""How often an image is tried in one run, by what went wrong; once for all else. A quota is waited for. Every
try has the client's own few tries of each request in it."""
LOOKS: dict[ErrorClass, int] = {"transient": 3, "auth": 2}
"""The same of looking at it, where not to know is an answer too."""
SOONEST, LATEST = 1.0, 120.0  # seconds between two tries of an image
QUOTA_PAUSE = 600.0  # seconds until a registry that named no time is asked again


def error_class(error: BaseException) -> ErrorClass:
    """What went wrong; what nobody foresaw is ours. The target's answers say nothing about a base."""
    found: ErrorClass = next((name for kind, name in _CLASSES if isinstance(error, kind)), "ours")
    return "target" if blame.of_target(error) and found in ("base missing", "platform", "ours") else found


def state_after(error: BaseException, looking: bool) -> State:
    """The state of an image that is not tried again now. looking: its base was being asked for.

    Only a clear answer about the base makes it missing or unfit: all else is not known, or failed.
    """
    if blame.of_target(error):
        return "unknown" if looking else "failed"
    for kind, state in _STATES.items():
        if isinstance(error, kind):
            return state
    if not looking:
        return "failed"
    kind_of = error_class(error)
    return "unauthorised" if kind_of == "auth" else "failed" if kind_of in ("ours", "platform") else "unknown"


def pause(kind: ErrorClass, tries: int, looking: bool = False) -> float | None:
    """Seconds until an image is tried again, after so many tries; None: not in this run. With jitter, so that
    many that failed together do not come back together."""
    if tries >= (LOOKS if looking else TRIES).get(kind, 1):
        return None
    return min(LATEST, SOONEST * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)


class Quota(Struct, frozen=True):
    """So many manifests in so many seconds. remaining: of the present window, where the registry said it.
    assumed: it did not say any of it."""

    limit: int
    window: int
    remaining: int | None = None
    assumed: bool = False

    def seconds(self, manifests: int) -> float:
        """How long that many take: at the quota's rate, less what may be had at once."""
        at_once = min(self.limit, self.limit if self.remaining is None else self.remaining)
        return 0.0 if manifests <= at_once else manifests / self.limit * self.window


HUB_WINDOW = 6 * 3600
HUB_ANONYMOUS = Quota(100, HUB_WINDOW, assumed=True)
HUB_KNOWN = Quota(200, HUB_WINDOW, assumed=True)
"""Docker Hub's, as it publishes them: for addresses without a login, and for free accounts."""


class Fetch(Struct, frozen=True, kw_only=True):
    """Images whose manifests a place has still to give us."""

    place: str
    images: int
    quota: Quota | None

    @property
    def seconds(self) -> float:
        return self.quota.seconds(self.images) if self.quota else 0.0


class Forecast(Struct, frozen=True, kw_only=True):
    """What is to come.

    images     to be baked; unseen: those whose manifests are not known, so that no bytes count for them.
    requests   to all registries; bytes: moved to the target. At the least, where there are unseen ones.
    """

    images: int
    unseen: int
    requests: int
    bytes: int
    fetches: tuple[Fetch, ...] = ()

    @property
    def seconds(self) -> float:
        """At the registries' quotas; 0: none is in the way."""
        return max((each.seconds for each in self.fetches), default=0.0)


PER_IMAGE = 4  # the tag asked for, the config in two, the manifest put
PER_UNSEEN = 3  # more: manifest, config, index perhaps
PER_MOVED = 3  # more than a mount, for a blob that is not in the target: fetched, upload begun and ended


def forecast(
    *, images: int, unseen: int, mounts: int, moves: int, bytes: int, fetches: Sequence[Fetch]
) -> Forecast:
    """mounts: pairs of repository and blob to make; moves: blobs that are nowhere in the target yet."""
    requests = images * PER_IMAGE + unseen * PER_UNSEEN + mounts + moves * PER_MOVED
    return Forecast(
        images=images, unseen=unseen, requests=requests, bytes=bytes, fetches=tuple(fetches)
    )  # fmt: skip


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `275 h (11.4 days)`: for people."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours:.0f} h ({hours / 24:.1f} days)"
