"""Every base of the zoo, with the agent's layer on it, runs the agent-server; and stays what it was."""

from __future__ import annotations

import pytest

from image_cache.references import Reference
from image_cache.registry import Registry
from kit.nouns import Platform
from tests.live.parts_bases import ALL, Zoo, put

pytestmark = pytest.mark.live


@pytest.mark.parametrize("name", ALL)
def test_a_registry_serves_it(name: str, zoo: Zoo, registry_host: str) -> None:
    made = zoo(name)
    reference = Reference.parse(put(made, registry_host, f"zoo/{name}"))
    registry = Registry(registry_host)
    assert registry.head(reference) == made.digest
    assert registry.image(reference, Platform.host())[0] == made.image.manifest
