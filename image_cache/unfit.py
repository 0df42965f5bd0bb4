"""Why an image cannot be used or baked: one class a kind, so that a list of thousands can be sorted by it.

All are refusals of this very image (UnsupportedError and its exit code): asking again gives the same.
"""

from __future__ import annotations

from kit.errors import UnsupportedError


class SchemaOneError(UnsupportedError):
    """Docker's first manifest schema: it has no layers by digest."""


class WrongPlatformError(UnsupportedError):
    """An image, or an index, that has nothing for the platform that was chosen."""


class TooManyLayersError(UnsupportedError):
    """More layers than engines take."""


class ForeignLayerError(UnsupportedError):
    """A layer whose bytes are not in the registry, or of a kind that is not known here."""


class LostLayerError(UnsupportedError):
    """A registry has an image's manifest, and not one of its layers any more."""


class TagTakenError(UnsupportedError):
    """The tag stands for an image that is not ours; what others made is never overwritten."""
