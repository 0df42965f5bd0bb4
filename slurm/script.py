"""The batch script of a job: what goes into it, as data, and its text. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from kit.errors import InvalidFileError
from kit.shell import quote
from slurm import fabric, template

Options = dict[str, str | int | bool]
"""sbatch's long options without dashes -> value; True: an option without a value; False: left out."""


class Present(Struct, frozen=True):
    """A file or folder that a node's container gets where that node has it."""

    source: str
    target: str
    read_only: bool = True


class Beside(Struct, frozen=True, kw_only=True):
    """Containers beside the job's, by podman: the folder inside with its socket, `data_root` on the node for
    images ("": a temporary folder), and how many of the run folder's file `prepull` are pulled at once."""

    folder: str
    data_root: str = ""
    at_once: int = 4


class Servers(Struct, frozen=True, kw_only=True):
    """Nodes of the job's second part (a heterogeneous job), each with a sandbox server on the host itself.

    options   of the second part's #SBATCH lines; nodes: how many; cpus: of each.
    engine    the program by which sandboxes are run.
    layer     the folder of the slipworks layer, which those nodes see: its own loader starts its own Python.
    words     of the runner in it, to which the script adds --state FOLDER; the first line that it prints is
              its address.
    cache     where images and layers are; root: a folder of the nodes' own disk; "": a temporary folder.
    patience  whole seconds that these nodes get to end.
    """

    options: Options
    nodes: int
    cpus: int
    engine: str
    layer: str
    words: tuple[str, ...]
    cache: str
    root: str = ""
    patience: float = 40.0


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
               matches a glob of `fabric` --mount=type=bind,source=FILE,target=FOLDER/NAME,ro (FOLDER: see
               slurm.fabric); for each that matches one of `devices` --device=FILE. A glob without a match
               adds nothing. Mounts of `container` that may lie in those come behind.
    present    more of them, in this order, where the node has them.
    submits    jobs are submitted from inside: the folder of the node's own slurm.conf, too.
    temporary  each node makes a folder of its own, 0700, on its own disk ($SLURM_TMPDIR, $TMPDIR or /tmp):
               /tmp inside (one more --mount word), removed when the node's part ends.
    have,fetch of each node, before the container: where `have` fails, `fetch` brings the image to the node's
               engine, and what it says is the node's log. Both empty: the image is a file that all nodes see.
    patience   whole seconds that the nodes' ends may take after the head's before the step is ended.
    restarts   how many jobs may follow the first one. sbatch gets the script's argument K for the K-th job,
               from 1; without it a job counts as the first.
    secrets    files that are removed once no attempt can follow.
    beside     see there; only where `container` is podman's.
    sandboxes  see Servers.
    told_path  each node leaves its PATH and LD_LIBRARY_PATH in the run folder, as `path-RANK`, a line each,
               for what runs the node's own programs from within its container.
    """

    options: Options
    run: Path
    nodes: int
    container: Sequence[str]
    rank_token: str
    remove: Sequence[str] = ()
    modules: tuple[str, ...] = ()
    words_at: int = 1
    fabric: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    present: tuple[Present, ...] = ()
    submits: bool = False
    temporary: bool = False
    have: Sequence[str] = ()
    fetch: Sequence[str] = ()
    patience: float = 45.0
    restarts: int = 0
    secrets: tuple[Path, ...] = ()
    told_path: bool = False
    beside: Beside | None = None
    sandboxes: Servers | None = None


LONGEST_WORD = (128 << 10) - 1
"""Bytes of one word that exec takes, less the closing NUL (MAX_ARG_STRLEN)."""
LONGEST_COMMAND = 1 << 20
"""Bytes of a whole command: half of what exec takes where the stack has its usual 8 MiB; the rest is the
environment's."""
LONGEST_DIRECTIVE = 8000
"""Bytes of one #SBATCH line; sbatch reads them into a buffer of 8192."""
LONGEST_SCRIPT = 4 << 20
"""Bytes that sbatch takes, unless the site has another max_script_size."""

TEMPLATE = "job.sbatch.j2"
PODMAN_FLAGS = ' ${podman_flags[@]+"${podman_flags[@]}"}'
"""Of podman's commands: what a node decides (see podman.j2)."""

_OPTION = re.compile(r"[a-z][a-z0-9_-]+")
_PLAIN = re.compile(r"[A-Za-z0-9@%_+=:,./-]+")


def render(batch: Batch) -> str:
    """The script. Written with os.fsencode, so that bytes that are no UTF-8 stay what they are.

    Every value reaches the programs byte for byte, and nothing in one is ever run. InvalidFileError, in one
    line, for what cannot be carried: NUL, a line break in an option, more than exec or sbatch takes.
    """
    _check(batch)
    text = template.load(TEMPLATE).render(_named(batch))
    if len(raw := os.fsencode(text)) > LONGEST_SCRIPT:
        raise InvalidFileError(f"the batch script would have {len(raw)} bytes: sbatch takes {LONGEST_SCRIPT}")
    return text


def _named(batch: Batch) -> dict[str, Any]:
    """What the template knows by name."""
    rank = batch.rank_token
    words = [_word(word, rank) for word in batch.container]
    if words[0] == "podman":
        words[0] += PODMAN_FLAGS
    return {
        "directives": _directives(batch.options),
        "run": _word(str(batch.run)),
        "nodes": batch.nodes,
        "several": batch.nodes > 1,
        "restarts": batch.restarts,
        "patience": round(batch.patience),
        "engine": _word(batch.container[0]),
        "podman": batch.container[0] == "podman",
        "apptainer": batch.container[0] == "apptainer",
        "head": words[: batch.words_at],
        "tail": words[batch.words_at :],
        "remove": _line(batch.remove, rank),
        "have": _line(batch.have, rank),
        "fetch": _line(batch.fetch, rank),
        "modules": [_word(module) for module in batch.modules],
        "fabric": [_word(pattern) for pattern in batch.fabric],
        "devices": [_word(pattern) for pattern in batch.devices],
        "fabric_folder": fabric.FOLDER,
        "temporary": batch.temporary,
        "present": [_present(each) for each in batch.present],
        "submits": batch.submits,
        "told_path": batch.told_path,
        "beside": _word(batch.beside.folder) if batch.beside else "",
        "data_root": _word(batch.beside.data_root) if batch.beside else "",
        "at_once": batch.beside.at_once if batch.beside else 0,
        "cr": any("\r" in value for value in _values(batch)),
        "secrets": [_word(str(path)) for path in batch.secrets],
        **_named_servers(batch.sandboxes),
    }


def _named_servers(servers: Servers | None) -> dict[str, Any]:
    """The same of the job's second part; without one nothing of it is in the script."""
    engine = servers.engine if servers else ""
    return {
        "sandbox_engine": _word(engine) if servers else "",
        "podman_sandboxes": engine == "podman",
        "apptainer_sandboxes": engine == "apptainer",
        "sandbox_directives": _directives(servers.options) if servers else [],
        "sandbox_nodes": servers.nodes if servers else 0,
        "several_sandboxes": bool(servers and servers.nodes > 1),
        "sandbox_cpus": servers.cpus if servers else 0,
        "sandbox_root": _word(servers.root) if servers else "",
        "sandbox_layer": _word(servers.layer) if servers else "",
        "sandbox_cache": _word(servers.cache) if servers else "",
        "sandbox_words": [_word(word) for word in servers.words] if servers else [],
        "sandbox_patience": round(servers.patience) if servers else 0,
    }


def _directives(options: Options) -> list[str]:
    return [directive(name, value) for name, value in options.items() if value is not False]


def directive(name: str, value: str | int | bool) -> str:
    """A `#SBATCH` line that sbatch reads as exactly this option and value.

    sbatch cuts such a line at white space and at #, and knows quotes and backslashes in it, but it is no
    shell: seen with Slurm 22.05, within double quotes only " and the backslash stand for something else.
    """
    if not _OPTION.fullmatch(name):
        raise InvalidFileError(f"found the sbatch option {name!r}, expected its long name without dashes")
    if value is True:
        return f"#SBATCH --{name}"
    text = str(value)
    if "\n" in text or "\0" in text:
        raise InvalidFileError(
            f"the sbatch option {name} cannot hold a line break or NUL: found {text[:60]!r}"
        )
    if not _PLAIN.fullmatch(text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    line = f"#SBATCH --{name}={text}"
    if len(_bytes(line)) > LONGEST_DIRECTIVE:
        raise InvalidFileError(
            f"the value of the sbatch option {name} is longer than sbatch takes in a script"
        )
    return line


def filename(folder: Path, pattern: str) -> str:
    """A value for sbatch's --output and --error: the file `pattern` (%j and its like count) in `folder`,
    whose own percent signs are text. Where the folder has a backslash Slurm expands nothing, %j neither."""
    if "\\" in str(folder):
        return str(folder / pattern).replace("\\", "\\\\")
    return str(folder).replace("%", "%%") + "/" + pattern


def _check(batch: Batch) -> None:
    if not batch.run.is_absolute():
        raise InvalidFileError(f"found the run folder {str(batch.run)!r}, expected an absolute path")
    for command in _commands(batch):
        whole = 0
        for word in command:
            size = len(_bytes(word))
            whole += size + 9  # its NUL, and the pointer to it
            if size > LONGEST_WORD:
                raise InvalidFileError(
                    f"a word of the container's command has {size} bytes, exec takes {LONGEST_WORD}: "
                    f"{word[:60]!r}…"
                )
        if whole > LONGEST_COMMAND:
            raise InvalidFileError(
                f"the container's command would have {whole} bytes, at most {LONGEST_COMMAND} are safe"
            )


def _commands(batch: Batch) -> tuple[Sequence[str], ...]:
    words = batch.sandboxes.words if batch.sandboxes else ()
    return batch.container, batch.remove, batch.have, batch.fetch, words


def _values(batch: Batch) -> Iterator[str]:
    """All that the body of the script quotes."""
    for command in _commands(batch):
        yield from command
    for each in batch.present:
        yield from (each.source, each.target)
    yield from (*batch.modules, *batch.fabric, *batch.devices, str(batch.run), *map(str, batch.secrets))
    if servers := batch.sandboxes:
        yield from (servers.layer, servers.cache, servers.root)


def _present(each: Present) -> str:
    return " ".join([_word(each.source), _word(each.target), *(["ro"] if each.read_only else [])])


def _line(words: Iterable[str], token: str) -> str:
    line = " ".join(_word(word, token) for word in words)
    return line.replace("podman", f"podman{PODMAN_FLAGS}", 1) if line.startswith("podman ") else line


def _word(value: str, token: str | None = None) -> str:
    """The value as a word of the script; `token` in it stands for the rank.

    sbatch refuses scripts with DOS line ends, so a carriage return is put in by the script's own `cr`.
    """
    _bytes(value)
    ranked = value.split(token) if token else [value]
    word = '"$rank"'.join('"$cr"'.join(map(_part, piece.split("\r"))) for piece in ranked)
    return word or quote("")


def _part(text: str) -> str:
    return quote(text) if text else ""


def _bytes(value: str) -> bytes:
    try:
        return os.fsencode(value)
    except UnicodeEncodeError as bad:
        raise InvalidFileError(f"a value is no text that a program can be given: {value[:60]!r}") from bad
