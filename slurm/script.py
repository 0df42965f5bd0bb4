"""The batch script of a job: what goes into it, as data, and its text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

Options = dict[str, str | int | bool]
"""sbatch's long options without dashes -> value; True: an option without a value; False: left out."""

FABRIC = "/slipworks-fabric"
"""The folder inside in which the node's own libraries of its network lie (see slurm.clusters.Fabric)."""


class Batch(Struct, frozen=True, kw_only=True):
    """One job as sbatch gets it.

    options    of `#SBATCH` lines, in their order (see Options). Values may hold anything but line breaks.
    run        the run folder, on a file system that all nodes share; absolute. Attempts are made in it.
    nodes      how many; the script refuses to go on with another number.
    modules    of the site, loaded where there is a `module` command; a missing one ends the job.
    container  the engine's command that starts one node's container. Its last words are the node's own, to
               which the script adds --attempt N --rank N. Where it holds `rank_token`, the rank is put.
    remove     the engine's command that removes what a killed client left on a node; with `rank_token` too.
    rank_token a text that stands for the rank in `container` and `remove`; no value of the user's holds it.
    words_at   how many words of `container` come before those that a node adds of its own: for each file that
               matches a glob of `fabric` --mount=type=bind,source=FILE,target=FABRIC/NAME,ro; for each that
               matches one of `devices` --device=FILE. A glob without a match adds nothing.
    temporary  a text that stands, in `container`, for a folder that each node makes on its own disk (below
               $SLURM_TMPDIR, $TMPDIR or /tmp; 0700) and removes when its part ends; "": none is made.
    have,fetch of each node, before the container: where `have` fails, `fetch` brings the image to the node's
               engine, and what it says is the node's log. Both empty: the image is a file that all nodes see.
    patience   seconds that the nodes' ends may take after the head's before the step is ended.
    secrets    files that are removed when the last attempt has ended.
    """

    options: Options
    run: Path
    nodes: int
    container: Sequence[str]
    rank_token: str
    remove: Sequence[str] = ()
    modules: tuple[str, ...] = ()
    words_at: int = 0
    fabric: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    temporary: str = ""
    have: Sequence[str] = ()
    fetch: Sequence[str] = ()
    patience: float = 45.0
    secrets: tuple[Path, ...] = ()
