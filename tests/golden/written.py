"""How golden files are put in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kit import files


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Makes `folder` hold these files, name -> text, and no others."""
    for name, text in texts.items():
        files.write(folder / name, text)
    for stray in {file.name for file in folder.iterdir()} - set(texts):
        (folder / stray).unlink()
