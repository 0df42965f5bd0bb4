"""Whose certificates are believed, whatever is asked for over HTTPS."""

from __future__ import annotations

import functools
import ssl

import certifi


@functools.cache
def trusted(more: str = "") -> ssl.SSLContext:
    """The system's certificates (SSL_CERT_FILE wins, as everywhere), certifi's for hosts without any, and
    `more` (PEM)."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if more:
        context.load_verify_locations(cadata=more)
    return context
