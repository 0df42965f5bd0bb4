"""The engines that sandboxes can run by: one file each, see runner/sandboxes/backend.py."""
