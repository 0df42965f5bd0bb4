"""A store and an image in it, for the unit tests."""

from tests.unit.parts_images import image, store
from tests.unit.parts_node import folder, nothing_survives

__all__ = ["folder", "image", "nothing_survives", "store"]
