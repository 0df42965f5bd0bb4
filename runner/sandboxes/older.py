"""What the older client of OpenHands (`RemoteRuntime`) asks beside what it shares with the SDK's."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from kit.errors import NotFoundError
from runner.sandboxes import api, models


def routes() -> APIRouter:
    router = api.locked_router()
    router.add_api_route("/runtime/{runtime_id}", runtime, response_model=models.Runtime, methods=["GET"],
                         responses=api.declared(404, 422))  # fmt: skip
    router.add_api_route("/registry_prefix", prefix, response_model=models.Prefix, methods=["GET"])
    router.add_api_route("/image_exists", image_exists, response_model=models.ImageExists, methods=["GET"],
                         responses=api.declared(422, 502, 503))  # fmt: skip
    return router


async def runtime(request: Request, runtime_id: str) -> Response:
    """A sandbox by its id, living or ended."""
    found = await api.quickly(api.served(request).host.known, runtime_id)
    if found is None:
        raise NotFoundError(f"there is no sandbox {runtime_id}")
    return await api.told(request, found)


async def prefix(request: Request) -> Response:
    """What clients put before the names of their images."""
    return api.answer({"registry_prefix": api.served(request).prefix})


async def image_exists(
    request: Request, image: Annotated[str, Query(max_length=4096, pattern=models.IMAGE)]
) -> Response:
    """Whether an image could be started, here or by way of its registry. 502: not known."""
    found = await api.slowly(request, api.served(request).host.exists, image)
    if found is None:
        return api.answer({"exists": False})
    about = {"upload_time": found.uploaded, "image_size_bytes": found.size}
    return api.answer({"exists": True, "image": about})
