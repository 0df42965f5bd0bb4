"""What sandboxes do that mean harm."""

from __future__ import annotations

BOMB = (
    "while :; do sh -c 'while :; do sleep 1000 & done'; done"  # a shell that cannot fork ends: another begins
)
