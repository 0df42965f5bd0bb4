"""WHAT is in an image: archs, stacks, bases and layers as data, rendered by pure functions."""
