"""setup.sh for real: in a bare root of this distribution, and in a checkout whose path is awkward."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from containers import apt, secrets
from kit.nouns import Platform
from tests.live.needs import need

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[2]
# A mount namespace of its own: what is mounted for the chroot is gone with it.
ENTER = """
mount --rbind /proc "$1/proc" && mount --rbind /dev "$1/dev"
root=$1 user=$2; shift 2
exec chroot --userspec="$user:$user" "$root" "$@"
"""


def checkout(place: Path) -> Path:
    """The tracked files as they are now, at `place`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    return place


def environment() -> dict[str, str]:
    """Ours, without what a virtual environment or an outer make left in it."""
    return {
        name: value for name, value in os.environ.items()
        if name != "VIRTUAL_ENV" and not name.startswith(("MAKE", "MFLAGS"))
    }  # fmt: skip


# --- an awkward path


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    return checkout(tmp_path / 'it\'s a "checkout" $(touch hit)')


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def test_an_awkward_path_two_at_once_and_again(awkward: Path) -> None:
    """Two set-ups at once make one .venv; a third finds nothing to do; the runner starts by its own name."""
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: run(awkward, "./setup.sh", "kit"), range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert (first.stdout, second.stdout) == ("", "")
    assert sorted(["ready" in first.stderr, "ready" in second.stderr]) == [False, True]
    again = run(awkward, "./setup.sh", "kit")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    told = run(awkward, ".venv/bin/runner", "--version")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("runner ")
    assert not list(awkward.parent.rglob("hit"))
    assert not (awkward / ".venv.lock").exists()


def test_stdout_is_the_answer_alone(awkward: Path) -> None:
    """In a fresh checkout, where set-up has much to tell: nothing of it is on stdout."""
    told = run(awkward, "make", "-s", "image", "ARCH=no such arch")
    assert (told.returncode, told.stdout) == (2, "")
    assert "setup: .venv" in told.stderr
    assert "no such arch" in told.stderr
    assert "Traceback" not in told.stderr


# --- a bare machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root file system of this distribution with apt and no Python, and a checkout in it at /a checkout."""
    need(os.geteuid() == 0, "a bare root is entered by chroot, which needs root")
    need(shutil.which("mmdebstrap"), "mmdebstrap is not installed")
    here = apt.host_distribution()
    need(here, "this host has no apt")
    assert here
    release = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text()))
    given = apt.sources(here, release["VERSION_CODENAME"], Platform.host())
    root = tmp_path_factory.mktemp("bare") / "root"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", given.suite, root, "-"],
        input=given.text, text=True, check=True,
    )  # fmt: skip
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "certificates.pem").write_text(secrets.certificates(os.environ))
    checkout(root / "a checkout")
    yield root
    shutil.rmtree(root, ignore_errors=True)


def inside(machine: Path, *argv: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    """A command in the root, with no more of our environment than how to reach the package index."""
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp"}
    env |= secrets.index_values(os.environ)
    if (machine / "certificates.pem").stat().st_size:
        env |= {"PIP_CERT": "/certificates.pem", "SSL_CERT_FILE": "/certificates.pem"}
    enter = ["unshare", "--mount", "--propagation=private", "sh", "-ec", ENTER, "sh"]
    whole = [*enter, str(machine), str(user), *argv]
    return subprocess.run(
        whole, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def packages(machine: Path) -> str:
    return (machine / "var/lib/dpkg/status").read_text()


def test_a_bare_machine_is_told_what_it_lacks(machine: Path) -> None:
    before = packages(machine)
    told = inside(machine, "/a checkout/setup.sh", "demo", "--dry-run")
    assert (told.returncode, told.stdout) == (0, ""), told.stderr
    line = re.search(r"would run: apt-get install --no-install-recommends (.+)", told.stderr)
    assert line, told.stderr
    assert {"podman", "ca-certificates"} <= set(line[1].split())
    assert re.search(r"python3[.0-9]*-venv", line[1])
    assert packages(machine) == before


def test_an_ordinary_user_gets_the_list(machine: Path) -> None:
    told = inside(machine, "/a checkout/setup.sh", "demo", user=65534)
    assert (told.returncode, told.stdout) == (20, "")
    assert re.search(
        r"^  apt-get install --no-install-recommends .*venv.* podman ", told.stderr, re.MULTILINE
    )
    assert "usermod --add-subuids" in told.stderr


def test_a_bare_machine_gets_a_python_and_the_kit(machine: Path) -> None:
    """What is installed is named first; the runner then works; again there is nothing to do."""
    told = inside(machine, "/a checkout/setup.sh", "kit")
    assert (told.returncode, told.stdout) == (0, ""), told.stderr
    named = told.stderr.index("packages of the distribution are missing:")
    assert named < told.stderr.index("Setting up python3")
    assert "Package: python3-venv" in packages(machine) or "Package: python3.11-venv" in packages(machine)
    assert inside(machine, "/a checkout/.venv/bin/runner", "--version").stdout.startswith("runner ")
    again = inside(machine, "/a checkout/setup.sh", "kit")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
