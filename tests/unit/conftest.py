"""A store and an image in it, for the unit tests."""

from tests.unit.parts_images import image, store

__all__ = ["image", "store"]
