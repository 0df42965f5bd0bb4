"""Folders with files of subordinate users, whom only a user namespace with all of a user's ids may remove."""

from __future__ import annotations

import shutil
from pathlib import Path

from kit import process

NAMESPACES = (("unshare", "--user", "--map-root-user", "--map-auto", "--"), ("podman", "unshare"))
"""What gives one: util-linux of 2.38 or newer, or podman."""
LONGEST = 300.0  # seconds


def removed(folder: Path) -> bool:
    """Removes a folder as well as it can be; whether it is gone. Idempotent."""
    shutil.rmtree(folder, ignore_errors=True)
    for words in NAMESPACES:
        if folder.exists() and shutil.which(words[0]):
            argv = [*words, "rm", "-rf", "--one-file-system", "--", str(folder)]
            process.run(argv, what=f"remove {folder}", check=False, timeout=LONGEST)
    return not folder.exists()
