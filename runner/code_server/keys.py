"""The key of a code server: who has it may have programs run."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from pathlib import Path

from kit import files
from kit.errors import InvalidFileError
from runner.code_server.wanted import NEAR

HEADER = "X-API-Key"


def made() -> str:
    return secrets.token_hex(32)


def ensured(path: Path, whose: str = "the code server") -> str:
    """The key in a file, made there, 0600, if there is none. InvalidFileError if others can read it."""
    if not path.exists():
        files.write(path, made(), mode=0o600)
    try:
        mode, text = path.stat().st_mode, path.read_text().strip()
    except (OSError, UnicodeDecodeError) as bad:
        raise InvalidFileError(f"cannot read {whose}'s key: {bad}") from bad
    if mode & 0o077:
        raise InvalidFileError(f"others can read {whose}'s key {path}", f"chmod 600 {path}")
    if not text:
        raise InvalidFileError(f"found no key in {path}", f"rm {path}")
    return text


def write_netrc(path: Path, host: str, key: str, own: Path) -> None:
    """A netrc, 0600, by which `requests` sends the key unasked, by whatever name this machine is called.

    Behind it what `own`, the user's, says of others: whoever reads the one that $NETRC names reads no other.
    """
    rest = own.read_text(errors="replace") if own.is_file() else ""
    host = host.strip("[]")
    mine = [
        f"machine {name} login slipworks password {key}\n" for name in (NEAR if host in NEAR else (host,))
    ]
    files.write(path, "".join(mine) + rest, mode=0o600)


def opens(key: str, header: str | None, authorization: str | None) -> bool:
    """Whether a request has the key: in its own header, as a bearer's, or as the password of anybody."""
    scheme, _, rest = (authorization or "").partition(" ")
    given = header or (rest.strip() if scheme.lower() == "bearer" else "")
    if scheme.lower() == "basic" and not given:
        try:
            given = base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    return hmac.compare_digest(given.encode(), key.encode())
