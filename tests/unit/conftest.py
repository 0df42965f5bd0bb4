"""A store and an image in it, and hosts with Slurm, for the unit tests."""

from tests.unit.parts_images import image, store
from tests.unit.parts_node import folder, nothing_survives
from tests.unit.parts_slurm_hosts import debian, redhat

__all__ = ["debian", "folder", "image", "nothing_survives", "redhat", "store"]
