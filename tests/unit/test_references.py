"""What an image is called, who we are there, and what the answers mean."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from image_cache import answers, challenges, credentials
from image_cache.credentials import Credentials
from image_cache.references import Reference, api
from kit.errors import AuthError, InvalidFileError, NetworkError, NotFoundError, QuotaError, UnsupportedError

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12-slim", "docker.io/library/python:3.12-slim"),
        ("docker.io/python:3.12", "docker.io/library/python:3.12"),
        ("docker://index.docker.io/library/python", "docker.io/library/python:latest"),
        ("novaskyai/skyrl:x", "docker.io/novaskyai/skyrl:x"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("nvcr.io/nvidia/pytorch:25.01-py3", "nvcr.io/nvidia/pytorch:25.01-py3"),
        (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
        (f"ghcr.io/a/b:c@{DIGEST}", f"ghcr.io/a/b:c@{DIGEST}"),
    ],
)
def test_references_are_read_as_docker_reads_them(text: str, whole: str) -> None:
    assert str(Reference.parse(text)) == whole
    assert str(Reference.parse(whole)) == whole


def test_a_digest_wins_over_a_tag() -> None:
    assert Reference.parse(f"a/b:c@{DIGEST}").wanted == DIGEST
    assert Reference.parse("a/b:c").wanted == "c"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        "A/b",
        "a//b",
        "a/b:",
        "a/b@",
        "a/b@sha256:12",
        "a b",
        "a/b:c d",
        "https://a/b",
        "/a",
        "a/b:-x",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidFileError):
        Reference.parse(text)


def test_plain_http_only_on_this_machine() -> None:
    assert api("docker.io") == "https://registry-1.docker.io/v2"
    assert api("localhost:5000") == "http://localhost:5000/v2"
    assert api("127.0.0.1:5000") == "http://127.0.0.1:5000/v2"
    assert api("127.evil.example") == "https://127.evil.example/v2"
    assert api("localhost.evil.example:5000") == "https://localhost.evil.example:5000/v2"
    assert api("lab:5000") == "https://lab:5000/v2" and api("lab:5000", insecure=True) == "http://lab:5000/v2"


def pair(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose home and run folder are empty."""
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "PATH": str(tmp_path / "bin"),
    }


def written(path: Path, table: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table if isinstance(table, str) else json.dumps(table))


def test_podmans_file_comes_before_dockers(home: dict[str, str]) -> None:
    assert credentials.lookup("quay.io", "a/b", home) is None
    docker = Path(home["HOME"], ".docker/config.json")
    written(docker, {"auths": {"quay.io": pair("docker", "1:2")}})
    assert credentials.lookup("quay.io", "a/b", home) == Credentials(str(docker), "docker", "1:2")
    config = Path(home["HOME"], ".config/containers/auth.json")
    written(config, {"auths": {"quay.io": pair("config", "x")}})
    run = Path(home["XDG_RUNTIME_DIR"], "containers/auth.json")
    written(run, {"auths": {"other.io": pair("run", "x")}})
    for path, user in ((config, "config"), (run, "run")):
        written(path, {"auths": {"quay.io": pair(user, "x")}})
        assert credentials.lookup("quay.io", "a/b", home) == Credentials(str(path), user, "x")
    named = Path(home["HOME"], "named.json")
    written(named, {"auths": {"quay.io": {"identitytoken": "t"}}})
    found = credentials.lookup("quay.io", "a/b", {**home, "REGISTRY_AUTH_FILE": str(named)})
    assert found == Credentials(str(named), identity="t")
    elsewhere = Path(home["HOME"], "elsewhere")
    written(elsewhere / "config.json", {"auths": {"lab:5000": pair("e", "x")}})
    moved = credentials.lookup("lab:5000", "a", {**home, "DOCKER_CONFIG": str(elsewhere)})
    assert moved and moved.user == "e"


def test_the_longest_key_wins_and_docker_io_has_old_names(home: dict[str, str]) -> None:
    path = Path(home["HOME"], ".docker/config.json")
    written(
        path,
        {
            "auths": {
                "https://index.docker.io/v1/": pair("hub", "x"),
                "quay.io": pair("all", "x"),
                "quay.io/group": pair("group", "x"),
                "https://lab.example": pair("lab", "x"),
                "empty.io": {},
            }
        },
    )
    users = {
        (host, name): getattr(credentials.lookup(host, name, home), "user", None)
        for host, name in [
            ("docker.io", "library/python"), ("quay.io", "group/x"), ("quay.io", "groups/x"),
            ("lab.example", "x"), ("empty.io", "x"), ("io", "x"),
        ]
    }  # fmt: skip
    assert list(users.values()) == ["hub", "group", "all", "lab", None, None]


def helper(home: dict[str, str], name: str, script: str) -> None:
    path = Path(home["PATH"], f"docker-credential-{name}")
    written(path, f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_credential_helpers(home: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(home["HOME"], ".docker/config.json")
    written(config, {"credHelpers": {"a.io": "one", "b.io": "absent"}, "credsStore": "all"})
    helper(
        home, "one", 'read host; test "$1 $host" = "get a.io" && echo \'{"Username":"u","Secret":"s3cret"}\''
    )
    helper(home, "all", "echo credentials not found in native keychain; exit 1")
    assert credentials.lookup("a.io", "x", home) == Credentials("docker-credential-one", "u", "s3cret")
    assert credentials.lookup("c.io", "x", home) is None
    assert credentials.lookup("b.io", "x", home) is None
    assert "docker-credential-absent is named" in capsys.readouterr().err
    helper(home, "all", 'echo \'{"Username":"<token>","Secret":"t"}\'')
    assert credentials.lookup("docker.io", "x", home) == Credentials("docker-credential-all", identity="t")
    helper(home, "all", "echo s3cret is not JSON")
    assert credentials.lookup("d.io", "x", home) is None
    assert "s3cret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ['{"auths": {"a.io": {"auth": "s3cret!"}}}', '{"auths": ["s3cret"]}', "{s3cret"]
)
def test_a_broken_file_is_named_and_its_secrets_are_not(text: str, home: dict[str, str]) -> None:
    path = Path(home["HOME"], ".docker/config.json")
    written(path, text)
    with pytest.raises(InvalidFileError) as told:
        credentials.lookup("a.io", "x", home)
    assert str(path) in told.value.message and "s3cret" not in told.value.message
    assert told.value.__cause__ is None or "s3cret" not in str(told.value.__cause__)


def test_credentials_do_not_show_themselves() -> None:
    secret = Credentials("file", "u", "s3cret", "t0ken")
    for text in (repr(secret), str(secret), f"{secret}"):
        assert "s3cret" not in text and "t0ken" not in text and "file" in text


@pytest.mark.parametrize(
    ("code", "kind"),
    [(401, AuthError), (403, AuthError), (429, QuotaError), (500, NetworkError), (503, NetworkError)],
)
def test_refusals_say_nothing_about_the_image(code: int, kind: type[Exception]) -> None:
    refused = answers.refusal("lab.io", "lab.io/a/b:c", code)
    assert type(refused) is kind and "does not exist" not in str(refused)
    assert answers.refusal("lab.io", "x", 404) is None and answers.refusal("lab.io", "x", 200) is None


def test_other_failures_in_the_registrys_words() -> None:
    words = answers.words(b'{"errors": [{"code": "MANIFEST_INVALID", "message": "two\\nlines"}]}')
    assert words == ": MANIFEST_INVALID two lines"
    refused = answers.failure("lab.io", "lab.io/a:b", 400, words)
    assert type(refused) is UnsupportedError and str(refused).endswith("with 400: MANIFEST_INVALID two lines")
    assert type(answers.failure("lab.io", "x", 404, "")) is NotFoundError
    for body in (b"", b"<html>", b"{}", b'{"errors": []}', b'{"errors": [1]}', b"[]"):
        assert answers.words(body) == ""


def test_retry_after_is_a_number_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 < (answers.seconds(soon) or 0) <= 100
    assert answers.seconds("7") == 7 and answers.seconds(None) is None and answers.seconds("soon") is None
    assert answers.seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_certificate_by_nobody_we_know() -> None:
    told = answers.unreachable("lab.io", "https://lab.io/v2", "it", "[SSL: CERTIFICATE_VERIFY_FAILED] x")
    assert "signed by nobody we know" in told.message and "SSL_CERT_FILE" in (told.hint or "")


def test_what_a_registry_wants_is_shown_to_it_alone() -> None:
    secret = Credentials("file", "u", "s3cret")
    assert challenges.answer('Basic realm="x"', [("a", "pull")], None) is None
    shown = challenges.answer('Basic realm="x"', [("a", "pull")], secret)
    assert shown == "Basic " + base64.b64encode(b"u:s3cret").decode()
    hub = 'Bearer realm="https://auth.example/token",service="registry.example",scope="other"'
    scopes = [("a/b", "pull,push"), ("c", "pull")]
    asked = challenges.answer(hub, scopes, secret)
    assert isinstance(asked, challenges.TokenRequest)
    assert asked.url == "https://auth.example/token"
    wanted = ["repository:a/b:pull,push", "repository:c:pull"]
    assert asked.query == {"service": "registry.example", "scope": wanted}
    assert asked.authorization == {"Authorization": shown} and "s3cret" not in repr(asked)
    nobody = challenges.answer(hub, scopes, None)
    assert isinstance(nobody, challenges.TokenRequest) and not nobody.authorization
    token = challenges.answer(hub, scopes, Credentials("file", identity="t0ken"))
    assert isinstance(token, challenges.TokenRequest) and not token.authorization
    assert token.form["refresh_token"] == "t0ken" and token.form["scope"] == " ".join(wanted)
