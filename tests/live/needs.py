"""The one rule of live tests: without the real part they say why they skip; in CI they must not skip."""

from __future__ import annotations

import os

import pytest


def need(condition: object, reason: str) -> None:
    """Goes on if the part is there. Otherwise skips with the reason, or fails with it where CI=true."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI no live test skips, but {reason}")
    pytest.skip(reason)
