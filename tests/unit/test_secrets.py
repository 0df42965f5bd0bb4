"""The machine's package index settings, as they go into a build."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import secrets
from kit.errors import (
    InvalidFileError,
)

Gather = Callable[..., dict[str, str]]


@pytest.fixture
def values(tmp_path: Path) -> Gather:
    def gather(files: dict[str, str] | None = None, **environment: str) -> dict[str, str]:
        for name, text in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        torch = environment.pop("torch_index", None)
        return secrets.index_values({"HOME": str(tmp_path / "home"), **environment}, tmp_path / "etc", torch)

    return gather


def test_nothing_set_gives_nothing(values: Gather) -> None:
    assert values() == {}


def test_each_tool_lends_its_index_to_the_other(values: Gather) -> None:
    assert values({"etc/pip.conf": "[global]\nindex-url = https://a.invalid/simple\n"}) == {
        "PIP_INDEX_URL": "https://a.invalid/simple",
        "UV_DEFAULT_INDEX": "https://a.invalid/simple",
    }
    assert values(UV_DEFAULT_INDEX="name=https://b.invalid/simple", PIP_CONFIG_FILE=os.devnull) == {
        "PIP_INDEX_URL": "https://b.invalid/simple",
        "UV_DEFAULT_INDEX": "name=https://b.invalid/simple",
    }


def test_the_users_file_wins_over_the_machines_and_a_variable_over_both(values: Gather) -> None:
    both = {
        "etc/pip.conf": "[global]\nindex-url = https://machine.invalid/\n",
        "home/.config/pip/pip.conf": "[global]\nindex-url = https://user.invalid/\n",
    }
    assert values(both)["PIP_INDEX_URL"] == "https://user.invalid/"
    assert values(both, PIP_INDEX_URL="https://now.invalid/")["PIP_INDEX_URL"] == "https://now.invalid/"


def test_uvs_file_with_named_indexes(values: Gather) -> None:
    text = """
[[index]]
name = "inner"
url = "https://inner.invalid/simple"
default = true
[[index]]
name = "more"
url = "https://more.invalid/simple"
"""
    found = values({"home/.config/uv/uv.toml": text}, UV_INDEX_MORE_PASSWORD="hunter2")
    assert found == {
        "UV_DEFAULT_INDEX": "inner=https://inner.invalid/simple",
        "UV_INDEX": "more=https://more.invalid/simple",
        "UV_INDEX_MORE_PASSWORD": "hunter2",
        "PIP_INDEX_URL": "https://inner.invalid/simple",
        "PIP_EXTRA_INDEX_URL": "https://more.invalid/simple",
    }


def test_folders_of_this_machine_are_left_out_and_named(
    values: Gather, capsys: pytest.CaptureFixture[str]
) -> None:
    from kit import say

    say._said.clear()
    assert values(PIP_EXTRA_INDEX_URL="file:///opt/a/simple /opt/b https://c.invalid/") == {
        "PIP_EXTRA_INDEX_URL": "https://c.invalid/",
        "UV_INDEX": "https://c.invalid/",
    }
    assert (
        capsys.readouterr().err == "note: package indexes in folders of this machine are not used in builds\n"
    )


def test_the_torch_index_comes_after_the_others(values: Gather) -> None:
    found = values(UV_INDEX="https://mine.invalid/", torch_index="https://torch.invalid/")
    assert found["UV_INDEX"] == "https://mine.invalid/ https://torch.invalid/"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_a_broken_file_is_named_and_not_quoted(values: Gather) -> None:
    with pytest.raises(InvalidFileError, match=r"pip\.conf") as raised:
        values({"etc/pip.conf": "index-url = https://me:hunter2@a.invalid/\n"})
    assert "hunter2" not in raised.value.message


CERTIFICATE = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----"


def test_certificates_once_each_and_never_a_key(tmp_path: Path) -> None:
    one, two = CERTIFICATE.format("AAAA"), CERTIFICATE.format("BBBB")
    key = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----"
    (tmp_path / "a.pem").write_text(f"{key}\n{one}\n")
    (tmp_path / "b.pem").write_text(f"{one}\n# note\n{two}\n")
    settings = {"SSL_CERT_FILE": str(tmp_path / "a.pem"), "PIP_CERT": str(tmp_path / "b.pem")}
    assert secrets.certificates(settings, tmp_path) == f"{one}\n{two}\n"


def test_the_two_files_are_private_sourceable_and_gone_afterwards(tmp_path: Path) -> None:
    from kit import process

    bundle = tmp_path / "ca.pem"
    bundle.write_text(CERTIFICATE.format("AAAA"))
    odd = "https://me:it's$HOME\"x@a.invalid/simple"
    environment = {"PIP_INDEX_URL": odd, "SSL_CERT_FILE": str(bundle), "HOME": str(tmp_path)}
    with secrets.gathered(None, environment, tmp_path) as found:
        assert found.index
        assert found.ca
        assert {path.stat().st_mode & 0o777 for path in (found.index, found.ca)} == {0o600}
        sourced = process.run(
            ["sh", "-c", '. "$1"; printf %s "$PIP_INDEX_URL"', "sh", found.index], what="source"
        )
        assert sourced.out == odd
    assert not found.index.exists()
    assert not found.index.parent.exists()
