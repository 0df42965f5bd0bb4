"""When a file of the store was last wanted: its modification time, which nothing else here needs.

A record keeps in itself when it was made. All times that are compared are given by the file system that the
store is on, so that the clocks of nodes and file servers may differ.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from kit import files

COARSE = 900.0  # seconds: a hit within these of the last one costs no write


def wanted(path: Path) -> bool:
    """Marks a file as wanted now. False when it is gone. One that may not be marked is there all the same."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # another user's store, or one that is only to be read
        return path.exists()
    return True


def hit(path: Path) -> bool:
    """The same for what is wanted often: at most one write in a quarter of an hour."""
    try:
        old = abs(time.time() - path.stat().st_mtime) > COARSE
    except FileNotFoundError:
        return False
    return wanted(path) if old else True


def now(root: Path) -> float:
    """The present time by the store's file system; this host's clock where nothing can be written."""
    try:
        with files.beside(root / "now") as file:
            file.touch()
            return file.stat().st_mtime
    except OSError:
        return time.time()
