"""The image store of this user's settings, for who needs nothing else of images."""

from image_cache.store import Store
from kit import settings


def store() -> Store:
    return Store(settings.load().settings.cache_folder / "images")
