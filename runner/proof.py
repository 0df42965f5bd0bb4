"""From an image of the store to its proof: inventories of what is new, and what this kit expects of it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import DecodeError, json, structs

from containers import inventory, sif_parts, verify
from containers.findings import Expected, Report
from containers.inventory import Inventory
from definitions import archs, exceptions, lines, render
from image_cache import streams
from image_cache.oci import Descriptor, diff_ids
from image_cache.store import Store
from kit import process, share
from kit.errors import InvalidFileError, UnknownNameError, VerifyError
from kit.nouns import Image, Platform, digest_file
from kit.shell import line as line_of
from runner import scratch

NOTE, REPORT = "inventory", "verify"  # kinds of notes
Update = Callable[[str], None]


class Proved(NamedTuple):
    """A report, and what it is on: megabytes, which need not be read again."""

    report: Report
    inventories: list[Inventory]


def prove(store: Store, image: Image, update: Update) -> Proved:
    """The report on an image, also kept as a note of its digest.

    Only layers that no proof has read yet are read. Nothing of the image is run.
    """
    found = inventories(store, image, update)
    labels, path = _said(store, image, found)
    report = verify.verify(found, expected(labels, image.platform, path))
    keep(store, image, report)
    return Proved(report, found)


def keep(store: Store, image: Image, report: Report) -> None:
    """Keeps a report as a note of an image."""
    store.put_note(image.digest, REPORT, json.encode(report))


def demand(report: Report, name: str, asked: Sequence[str] | None = ()) -> None:
    """VerifyError where anything failed, with the first of it.

    asked: what names it to `verify` where its name does not; None where nothing does.
    """
    if report.failed:
        first = report.failed[0]
        where = f" ({first.where})" if first.where else ""
        raise VerifyError(
            f"{name} is not what it must be: {len(report.failed)} findings, the first of check {first.check}:"
            f" {first.subject} {first.found}, expected {first.expected}{where}",
            None if asked is None else line_of(["runner", "image", "verify", *(asked or (name,)), "--json"]),
        )


def known(store: Store, image: Image) -> Report | None:
    """The report that was last made of just this image; None where there is none."""
    try:
        return json.decode(store.note(image.digest, REPORT) or b"", type=Report)
    except DecodeError:
        return None


def file_image(path: Path) -> Image:
    """A SIF that lies anywhere, as an image. InvalidFileError for another kind of file."""
    root = sif_parts.root(path)
    if root.arch is None:
        raise InvalidFileError(f"{path} is a SIF for a machine that is neither amd64 nor arm64")
    digest = digest_file(path)
    return Image(
        key=digest.removeprefix("sha256:"), name=path.stem, format="sif", platform=Platform(root.arch),
        digest=digest, path=path,
    )  # fmt: skip


def inventories(store: Store, image: Image, update: Update) -> list[Inventory]:
    """One a layer, lowest first; one for a whole SIF."""
    if image.format == "sif":
        return [_of_sif(store, image, update)]
    manifest, config = store.opened(image)
    ids = diff_ids(config, image.name)
    wanted = dict(zip(ids, manifest.layers, strict=True))
    found = {each: inventory.decode(store.note(each, NOTE)) for each in wanted}
    missing = [each for each in wanted if found[each] is None]
    for done, (diff_id, raw) in enumerate(_read(store, {each: wanted[each] for each in missing}), start=1):
        store.put_note(diff_id, NOTE, raw)
        found[diff_id] = inventory.decode(raw)
        update(f"{done} of {len(missing)} layers read")
    return [kept for each in ids if (kept := found[each]) is not None]


def _read(store: Store, layers: dict[str, Descriptor]) -> Iterator[tuple[str, bytes]]:
    """diff_id and encoded inventory of each, as they are done: largest first, a process for each core."""
    largest_first = sorted(layers.items(), key=lambda each: -each[1].size)
    with scratch.folder(store, "proof-") as folder:
        asked = {
            diff_id: (str(store.blob(layer.digest)), layer.media_type, str(folder))
            for diff_id, layer in largest_first
        }
        if (workers := min(len(asked), share.cpus())) < 2:
            for diff_id, task in asked.items():
                yield diff_id, of_layer(*task)
            return
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from multiprocessing import get_context

        # Not by fork: this process may have threads (a live line on the terminal).
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(of_layer, *task): diff_id for diff_id, task in asked.items()}
            for future in as_completed(futures):
                yield futures[future], future.result()


def of_layer(blob: str, media_type: str, scratch: str) -> bytes:
    """The encoded inventory of a layer's file."""
    with Path(blob).open("rb") as file:
        pieces = streams.unpacked(file, media_type, blob)
        return inventory.encode(inventory.read(pieces, Path(scratch)))


def _of_sif(store: Store, image: Image, update: Update) -> Inventory:
    found = inventory.decode(store.note(image.digest, NOTE))
    if found is None:
        offset = sif_parts.root(image.path).offset
        with scratch.folder(store, "proof-") as folder:
            root = folder / "root"
            update("unpacking")
            _unsquash(image.path, offset, root)
            update("reading")
            found = inventory.read_folder(root)
        store.put_note(image.digest, NOTE, inventory.encode(found))
    return found


_FULL = re.compile("No space left on device|Disk quota exceeded")
_NOT_ASKED_FOR = re.compile(
    "^create_inode: (could not create|failed to create) (character|block) device "
    "|^(create_inode|set_attributes): failed to change uid and gids on "
)


def _unsquash(sif: Path, offset: int, root: Path) -> None:
    """Unpacks the files of a SIF, all of them. Devices, owners and extended attributes are not asked for."""
    program = process.find("unsquashfs", "sudo apt install squashfs-tools")
    argv: list[str | Path] = [program, "-no-progress", "-no-xattrs", "-processors", str(share.cpus())]
    argv += ["-offset", str(offset), "-dest", root, sif]
    done = process.run(argv, what=f"unpack {sif}", check=False)
    told = [each for each in done.err.splitlines() if each.strip()]
    if full := next((each for each in told if _FULL.search(each)), None):
        raise OSError(errno.ENOSPC, full)
    # 2: something could not be made, and the rest was.
    if done.code == 2 and told and all(_NOT_ASKED_FOR.search(each) for each in told):
        done = structs.replace(done, code=0)
    if done.code or not root.is_dir():
        raise InvalidFileError(f"cannot unpack {sif}: {(done.err or done.out).strip()[-300:]}")
    for folder, names, files in os.walk(root):
        for name in (*names, *files):  # a top-down walk: a folder is opened before it is entered
            path = Path(folder, name)
            if not path.is_symlink() and not os.access(path, os.R_OK | os.X_OK if name in names else os.R_OK):
                path.chmod(path.stat().st_mode | 0o500)


def _said(store: Store, image: Image, found: list[Inventory]) -> tuple[dict[str, str], tuple[str, ...]]:
    """An image's labels and its PATH, by what it holds itself."""
    if image.format == "oci":
        config: dict[str, Any] = store.opened(image)[1].get("config") or {}
        env = dict(each.partition("=")[::2] for each in config.get("Env") or ())
        return dict(config.get("Labels") or {}), tuple(env.get("PATH", "").split(":"))
    facts = found[0].facts.get(".singularity.d/labels.json")
    try:
        labels = json.decode((facts and facts.text) or b"{}", type=dict[str, str])
    except DecodeError:
        labels = {}
    return labels, tuple(f"{render.STACK}/bin:{render.SYSTEM_PATH}".split(":"))


def expected(labels: dict[str, str], platform: Platform, path: tuple[str, ...] = ()) -> Expected:
    """What the definitions of this kit and an image's labels say that it must be."""
    rules = exceptions.load()
    plain = Expected(platform=platform, driver=rules.driver, code=rules.code, exemptions=rules.exemption)
    known_path = tuple(each for each in path if each) or plain.path
    name = labels.get("slipworks.line")
    if name is None:
        return structs.replace(plain, path=known_path)
    try:
        line = lines.load(name)
    except UnknownNameError as gone:
        return structs.replace(plain, path=known_path, unknown=gone.message)
    capabilities, floor = _by_arch(labels.get("slipworks.arch", ""), line)
    return structs.replace(
        plain, path=known_path, line=line.name, cuda=line.cuda,
        python=labels.get("slipworks.python"),
        capabilities=capabilities,
        label_capabilities=tuple(labels.get("slipworks.compute-capabilities", "").split()),
        label_floor=labels.get("slipworks.driver-floor"), driver_floor=floor,
        lock_digest=labels.get("slipworks.lock"),
        left_out=line.extensions,
    )  # fmt: skip


def _by_arch(name: str, line: lines.Line) -> tuple[tuple[str, ...], str | None]:
    """Compute capabilities and driver floor by the definitions of now; neither for an arch they lack."""
    with contextlib.suppress(UnknownNameError):
        arch = archs.load(name)
        return arch.compute_capabilities, render.driver_floor(arch, line)
    return (), None
