"""Committed outputs, compared as they are."""
