"""A base whose own apt is used: nothing is written where its links lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from containers.apt_home import Home
from kit.errors import HostError


@pytest.mark.parametrize("name", ["etc", "tmp", "dev"])
def test_a_link_in_the_base_is_not_followed(tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for each in (root, outside):
        each.mkdir()
    (outside / "hosts").write_text("this machine's own")
    (root / name).symlink_to(outside)
    with pytest.raises(HostError, match=f"its /{name} is a link"):
        Home(root).check()
    assert [each.name for each in outside.iterdir()] == ["hosts"]
    assert (outside / "hosts").read_text() == "this machine's own"


def test_links_in_etc_are_replaced_and_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("this machine's own")
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/hosts").symlink_to(outside)
    with pytest.raises(HostError):  # there is no apt in it
        Home(tmp_path / "root").check()
    assert outside.read_text() == "this machine's own"
    assert not (tmp_path / "root/etc/hosts").is_symlink()
