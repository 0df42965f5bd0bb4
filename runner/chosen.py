"""Which container image a job runs in: found, held against its record, and brought where its nodes see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kit import say, settings
from kit.errors import (
    HashMismatchError,
    NetworkError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from kit.nouns import Image, Platform, digest

if TYPE_CHECKING:
    from containers.engine import Engine
    from image_cache.store import Store
    from kit.nouns import Format
    from runner.job import Job
    from slurm.clusters import Cluster


class Chosen(Struct, frozen=True, kw_only=True):
    """The container image of a run. None: not known, or not ours.

    reference     what the engine is told.
    digest        of what is run: the SIF's bytes, or the OCI manifest.
    layer         squashfs file or folder of the slipworks layer that is mounted; None: the image has its own.
    driver_floor  the oldest driver that its CUDA runs on.
    archive       for docker: the `docker load` archive of it.
    """

    reference: str
    engine: str
    arch: str | None = None
    name: str | None = None
    key: str | None = None
    digest: str | None = None
    platform: str | None = None
    layer: str | None = None
    driver_floor: str | None = None
    archive: str | None = None


class Found(Struct, frozen=True):
    """What a run gets; `image` where the store has it as an OCI image, which nodes then fetch from there."""

    chosen: Chosen
    image: Image | None = None


def engine_of(job: Job, cluster: Cluster, asked: str | None) -> str:
    """The engine on a cluster's nodes: the one asked for, else the profile's first; a SIF's is apptainer.

    Nodes cannot be asked from here, so nothing is looked for.
    """
    from containers import engine as engines
    from kit.suggest import unknown

    sif = job.is_sif
    name = asked or ("apptainer" if sif else cluster.engines[0])
    if name not in engines.names():
        raise unknown("engine", name, engines.names())
    if sif and name != "apptainer":
        raise UnsupportedError(f"{name} runs no SIF file: found {job.image}", "--engine apptainer")
    if not engines.get(name).runs:
        raise UnsupportedError(f"{name} keeps images and runs none", "--engine apptainer")
    return name


def of(job: Job, cluster: Cluster, engine: str, *, dry: bool) -> Found:
    """The image of a job for an engine on a cluster's nodes. dry: nothing is looked up, pulled or made; what
    is not there yet goes by the name that it will have.

    NotFoundError for an image of ours that is not built; HashMismatchError for one that is not what its
    record says; UsageError where neither job nor profile says which.
    """
    if job.image is not None:
        return _given(job, job.image, cluster, engine, dry)
    return _ours(job, arch_of(job, cluster), cluster, engine, dry)


def arch_of(job: Job, cluster: Cluster) -> str:
    """The job's arch, else that of the cluster's nodes; UsageError where there is neither."""
    if arch := job.arch or cluster.arch:
        return arch
    raise UsageError(
        "the job names neither arch nor image, and the cluster's profile names no arch", "arch=…"
    )


def line_of(job: Job, arch: str, cluster: Cluster) -> str | None:
    """The job's line, else that of the cluster for its own arch; None: the arch's."""
    return job.line or (cluster.line if arch == cluster.arch else None)


def here(job: Job, cluster: Cluster, engine: Engine) -> Chosen:
    """The image that `image:` names, for an engine of this machine. One that keeps images must have it.

    The slipworks layer is mounted, whether or not the image has one: engines are not asked what is in it.
    """
    from runner import images, mounted_layer

    assert job.image is not None
    if engine.name == "apptainer":
        return of(job, cluster, engine.name, dry=False).chosen
    identity = engine.has(job.image)
    if identity is None:
        raise NotFoundError(f"{engine.name} has no image {job.image}", f"{engine.name} pull {job.image}")
    layer = mounted_layer.made(images.store(), Platform.host(), engine.name)
    return Chosen(reference=job.image, engine=engine.name, digest=identity, layer=str(layer))


def _ours(job: Job, arch: str, cluster: Cluster, engine: str, dry: bool) -> Found:
    from runner import foreseen, node_platforms

    line = line_of(job, arch, cluster)
    image = foreseen.image(arch, line, job.base, node_platforms.common(arch, cluster))
    format: Format = "sif" if engine == "apptainer" else "oci"
    sif = settings.load().settings.cache_folder / "images" / "sif" / f"{image.name}.sif"
    chosen = Chosen(
        reference=str(sif) if format == "sif" else f"localhost/{image.name}",
        engine=engine, arch=arch, name=image.name, key=image.key, platform=image.platform,
        driver_floor=image.driver_floor,
    )  # fmt: skip
    if dry:
        return Found(chosen)
    from runner import own_store

    store = own_store.store()
    found = store.find(image.key, format)
    if found is None:
        platform = _foreign(Platform.parse(image.platform))
        asked = (("LINE", line), ("BASE", job.base), ("PLATFORM", platform))
        words = "".join(f" {name}={value}" for name, value in asked if value)
        raise NotFoundError(
            f"the image {image.name} of {arch} is not built as {format}, so there is nothing to run",
            f"make image ARCH={arch}{words} FORMAT={format}",
        )
    return _checked(store, found, chosen)


def _foreign(platform: Platform) -> str | None:
    return None if platform == Platform.host() else str(platform)


def _given(job: Job, reference: str, cluster: Cluster, engine: str, dry: bool) -> Found:
    from runner import images, mounted_layer, node_platforms

    store = images.store()
    platform = node_platforms.likely(cluster)
    if job.is_sif:
        found = _file(store, Path(reference), engine, dry)
        if found.chosen.platform:
            node_platforms.demand(reference, Platform.parse(found.chosen.platform), cluster)
            platform = Platform.parse(found.chosen.platform)
        labels = found.image.labels if found.image else {}
    elif dry:
        named = f"docker://{reference}" if engine == "apptainer" else reference
        found, labels = Found(Chosen(reference=named, engine=engine, platform=str(platform))), {}
    else:
        image = pulled(reference, platform, store)
        chosen = Chosen(
            reference=image.name, engine=engine, name=image.name, platform=str(platform),
            driver_floor=image.labels.get("slipworks.driver-floor"),
        )  # fmt: skip
        if engine == "apptainer":
            from runner import building

            image = building.converted(image, store)
            chosen = replace(chosen, reference=str(image.path))
        found, labels = _checked(store, image, chosen), image.labels
    if mounted_layer.rides_in(labels):
        return found
    lay = mounted_layer.path_of if dry else mounted_layer.made
    return Found(replace(found.chosen, layer=str(lay(store, platform, engine))), found.image)


def _file(store: Store, path: Path, engine: str, dry: bool) -> Found:
    """A SIF that lies anywhere."""
    chosen = Chosen(reference=str(path), engine=engine, name=path.stem)
    if not path.is_file():
        if dry:
            return Found(chosen)
        raise NotFoundError(f"there is no SIF {path}", "runner image list")
    if dry:
        return Found(chosen)
    from containers import sif_parts
    from runner import known, trusted

    root = sif_parts.root(path)
    platform = str(Platform(root.arch)) if root.arch else None
    chosen = replace(chosen, platform=platform, digest=trusted.hashed(store, path))
    try:
        about = known.of_file(str(path))
    except NotFoundError:
        trusted.without_record(str(path))
        return Found(chosen)
    trusted.demand(about, chosen.digest)
    record = about.record
    chosen = replace(chosen, arch=record.arch, key=record.key, name=record.name,
                     driver_floor=record.driver_floor)  # fmt: skip
    return Found(chosen)


def pulled(reference: str, platform: Platform, store: Store) -> Image:
    """The image of a reference, in the store. One that is named by its digest is not asked for twice; of one
    that is named by a tag the last is taken, and told, where the registry cannot be reached."""
    from image_cache import transfer
    from image_cache.references import Reference

    wanted = Reference.parse(reference)
    place = digest(f"{wanted} for {platform}".encode())
    noted = (store.note(place, "pulled") or b"").decode()
    before = store.find(noted, "oci") if noted else None
    if before and wanted.digest:
        return before
    try:
        with say.step(f"pulling {wanted} for {platform}") as update:
            image = transfer.pull(reference, platform, store, update)
    except NetworkError as away:
        if before is None:
            raise
        say.say(f"note: {away.message}: {before.name} is taken, which was pulled before")
        return before
    store.put_note(place, "pulled", image.key.encode())
    return image


def _checked(store: Store, image: Image, chosen: Chosen) -> Found:
    """The store's image, held against its record and against its own bytes."""
    from runner import known, trusted

    found = trusted.hashed(store, image.path) if image.format == "sif" else image.digest
    if found != image.digest:
        raise HashMismatchError(
            f"{image.path} is not the image that was put there: it hashes to {found}, expected "
            f"{image.digest}",
            f"rm {image.path}  # then build it again",
        )
    about = known.of(store, image)
    trusted.demand(about, None)
    if not about.recorded:
        trusted.without_record(chosen.name or chosen.reference)
    chosen = replace(chosen, digest=image.digest, key=chosen.key or image.key)
    if image.format == "sif" or chosen.engine == "apptainer":
        return Found(chosen)
    return Found(_for_nodes(store, image, chosen), image)


def _for_nodes(store: Store, image: Image, chosen: Chosen) -> Chosen:
    """By what engines on other machines will know it: its id, or the name in an archive for docker."""
    from containers.workplace import config_digest
    from image_cache import stamps

    if chosen.engine != "docker":
        return replace(chosen, reference=config_digest(image).removeprefix("sha256:"))
    archive = store.root.parent / "archives" / f"{image.digest.removeprefix('sha256:')}.tar"
    if not stamps.hit(archive):
        with say.step(f"writing {image.name} for docker"):
            store.write_docker_archive(image, archive)
    return replace(chosen, reference=f"{image.name}:latest", archive=str(archive))
