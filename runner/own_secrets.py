"""The user's secrets: one file beside the settings, for its owner alone; values go nowhere but into jobs.

A job's secret is taken from the environment of whoever submits and, where that has none, from this file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kit import exact, files, settings
from kit.errors import HeldError, HostError, InvalidFileError, UsageError
from runner.env_files import LONGEST

PATIENCE = 60.0
"""Seconds for another command that changes the file: more than a claim's SILENCE, after which one that was
killed on another machine is known to be dead."""


def file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where they lie, whether or not the file exists. A link is followed."""
    named = settings.user_file(environment).with_name("secrets.json")
    return named.resolve() if named.is_symlink() else named


def read(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """All of them by name; none without a file.

    HostError, and nothing read, where others than its owner can read or write the file or it is another's;
    InvalidFileError for what is no such file. Neither quotes anything of it.
    """
    path = file(environment)
    try:
        with path.open("rb") as opened:  # what is judged is what is read
            found = os.fstat(opened.fileno())
            if found.st_uid != os.geteuid():
                raise HostError(f"the secrets in {path} are another user's", f"ls -l {path}")
            if found.st_mode & 0o077:
                raise HostError(
                    f"{path} holds secrets and others can open it: found mode {found.st_mode & 0o777:04o}, "
                    "expected 0600",
                    f"chmod 600 {path}  # and renew what is in it, if others have read it",
                )
            return exact.decode(opened.read(), dict[str, str])
    except FileNotFoundError:
        return {}
    except OSError as closed:
        raise HostError(f"cannot read the secrets {path}: {closed.strerror}") from None
    except ValueError:  # which would quote what is in it
        raise InvalidFileError(f"{path} is not the file of secrets that runner secrets writes") from None


@contextlib.contextmanager
def changing() -> Iterator[dict[str, str]]:
    """The secrets, to be changed in place; at the end, unless by an error, they are the file's, atomically.

    Of several that change it at once each waits for the other. HeldError after PATIENCE seconds.
    """
    from image_cache.claim import Claim

    path = file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    claim, until = Claim(path.with_name(f".{path.name}.claim")), time.monotonic() + PATIENCE
    while True:
        with claim.taken() as mine:
            if mine:
                values = read()
                yield values
                files.write(path, exact.encode(dict(sorted(values.items()))), mode=0o600)
                return
        if time.monotonic() > until:
            raise HeldError(f"another command has been changing {path} for {PATIENCE:g} s")
        time.sleep(0.1)


def wrong(name: str, value: str) -> str | None:
    """Why a program could not be given this, in words that do not quote it; None: it could."""
    if not value:
        return f"the value of {name} is empty"
    if "\0" in value:
        return f"the value of {name} has a NUL byte, which no program can be given"
    if _is_too_long(name, value):
        return f"the value of {name} has more than 128 KiB, which exec refuses"
    return None


def _is_too_long(name: str, value: str) -> bool:
    return len(os.fsencode(f"{name}={value}")) > LONGEST


def found(
    names: Iterable[str], environment: Mapping[str, str] = os.environ
) -> tuple[dict[str, str], dict[str, str]]:
    """Values and sources ("environment", "file") by name, of those that there are. A variable that is set to
    nothing counts where the file has nothing. The file is only read for what the environment lacks."""
    wanted = tuple(names)
    stored = read(environment) if any(not environment.get(name) for name in wanted) else {}
    values, sources = {}, {}
    for name in wanted:
        if environment.get(name) or (name in environment and name not in stored):
            values[name], sources[name] = environment[name], "environment"
        elif name in stored:
            values[name], sources[name] = stored[name], "file"
    return values, sources


def demanded(names: Iterable[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The values by name; UsageError naming those that are nowhere, or that exec would refuse."""
    wanted = tuple(names)
    values, _ = found(wanted, environment)
    if missing := [name for name in wanted if name not in values]:
        raise UsageError(
            f"the job needs the secret {', '.join(missing)}, which is neither set here nor in "
            f"{file(environment)}",
            f"runner secrets set {missing[0]}",
        )
    for name, value in values.items():
        if _is_too_long(name, value):
            raise UsageError(f"the secret {name} has more than 128 KiB, which exec refuses")
    return values
