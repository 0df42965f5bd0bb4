"""Uploads a folder to the Hugging Face hub: run by the image's own Python, which knows nothing of this kit.

Its one argument is JSON: see Upload in asked.py; `checkpoints` is their folder, `trained` the folder of the
run that made them. The token is in the environment. Ends with 0 and a word where nothing is to be uploaded.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

TRIES = 5
FIRST_PAUSE = 5.0  # seconds, then twice as long each time
PASSING = ("TransportError", "ConnectionError", "Timeout", "TimeoutError")
"""Kinds of what goes wrong on the way, by httpx and by requests: the hub's package has used both."""


def how_it_ended(trained: str) -> str:
    """The word that a run's last attempt leaves; "failed" where it left none."""
    try:
        return Path(trained, "finished").read_text().strip()
    except FileNotFoundError:
        return "failed"


def by_numbers(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def chosen(checkpoints: str, pattern: str | None) -> Path | None:
    """The folder that goes; None: there is none with anything in it."""
    found = Path(checkpoints).glob(pattern) if pattern else [Path(checkpoints)]
    return max(
        (each for each in found if each.is_dir() and any(each.iterdir())), key=by_numbers, default=None
    )


def passes(failure: Exception) -> bool:
    """Whether another try may help: the hub was not reached, asks for patience, or is not well."""
    status = getattr(getattr(failure, "response", None), "status_code", None)
    if status is None:
        return any(each.__name__ in PASSING for each in type(failure).__mro__)
    return bool(status == 429 or status >= 500)


def upload(asked: dict[str, Any], folder: Path) -> None:
    """Makes a commit of it. What an earlier try has brought is not sent again."""
    from huggingface_hub import HfApi

    hub = HfApi(token=os.environ[asked["token"]])
    of = {"repo_id": asked["repo"], "repo_type": asked["kind"]}
    hub.create_repo(**of, private=asked["private"], exist_ok=True)
    if asked["revision"]:
        hub.create_branch(**of, branch=asked["revision"], exist_ok=True)
    hub.upload_folder(
        **of, folder_path=str(folder), path_in_repo=asked["target"], revision=asked["revision"],
        ignore_patterns=asked["leave"] or None, commit_message=asked["message"],
    )  # fmt: skip


def fail(why: str) -> int:
    sys.stderr.write(f"error: {why}\n")
    return 1


def main(asked: dict[str, Any]) -> int:
    ended = how_it_ended(asked["trained"])
    if ended != "succeeded" and (ended == "cancelled" or not asked["always"]):
        sys.stdout.write(f"nothing is uploaded: the run did not succeed ({ended})\n")
        return 0
    folder = chosen(asked["checkpoints"], asked["folder"])
    if folder is None:
        return fail(f"nothing to upload: no {asked['folder'] or 'files'} in {asked['checkpoints']}")
    for number in range(TRIES):
        try:
            upload(asked, folder)
        except ImportError as missing:
            return fail(f"the image's python3 has no huggingface_hub that works: {missing}")
        except Exception as failure:
            why = f"could not upload {folder} to {asked['repo']}: {' '.join(str(failure).split())}"
            if number + 1 == TRIES or not passes(failure):
                return fail(why)
            sys.stderr.write(f"{why}; trying again\n")
            time.sleep(FIRST_PAUSE * 2**number)
        else:
            sys.stdout.write(f"uploaded {folder} to {asked['repo']}\n")
            return 0
    raise AssertionError("every try returns or is followed by another")


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
