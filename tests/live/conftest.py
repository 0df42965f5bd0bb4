"""A store and an image in it, for the live tests."""

from tests.live.parts_pushed import image, store

__all__ = ["image", "store"]
