"""What engines, pip and uv say when something fails, as errors of ours.

The patterns were taken from real outputs (tests/unit/recorded/); an output that none of them knows becomes
the general error with its last lines.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kit import process, say
from kit.errors import (
    AuthError,
    BuildError,
    HashMismatchError,
    HostError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    QuotaError,
    SlipworksError,
    UnsupportedError,
)

KEPT = 400  # lines of output that are looked at: the cause may stand far above the end

Pattern = tuple[type[SlipworksError], str, str, str]
"""Kind, what matches in the output, what the message says, and the hint. `{base}` is the base's reference."""

KNOWN: tuple[Pattern, ...] = (
    (NoSpaceError, r"no space left on device|disk quota exceeded",
     "no space left on the device", "df -h /var/tmp /tmp; runner config | grep cache"),
    (HostError, r"insufficient UIDs or GIDs|potentially insufficient|no mapping entry found in /etc/subuid"
                r"|cannot find UID/GID for user|no subuid ranges found|uid range .* not allowed",
     "this user has too few subordinate ids in /etc/subuid and /etc/subgid",
     "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"),
    (HostError, r"cannot clone: |user namespaces are not enabled|newuidmap.*Operation not permitted"
                r"|Failed to create user namespace|user namespace.*(disabled|not allowed)",
     "this kernel refuses user namespaces", "sudo sysctl -w user.max_user_namespaces=28000"),
    (HostError, r"Requesting capability set 0x\w+ while permitted capability set",
     "root lacks capabilities here that the engine asks for", "run it as an ordinary user"),
    (HostError, r"/dev/fuse.*(permission denied|operation not permitted|no such file)",
     "/dev/fuse is closed or missing", "sudo chmod 666 /dev/fuse"),
    (UnsupportedError, r"not correct mediatype: \S+\+zstd",  # 1.3, by what its unpacker says of itself
     "this apptainer reads no layers that are packed by zstd",
     "module load apptainer/1.4 (or newer), or run the image with podman: make image FORMAT=oci"),
    (QuotaError, r"toomanyrequests|429 Too Many Requests|status code 429|pull rate limit",
     "the registry's quota is used up ({base})", "log in for a higher quota, or try again later"),
    (AuthError, r"reading manifest .*: (unauthorized|denied|authentication required)"
                r"|40[13] (Unauthorized|Forbidden)|UNAUTHORIZED: |DENIED: |unauthorized: |denied: requested",
     "the registry does not let us read {base}", "docker login REGISTRY (or podman login REGISTRY)"),
    (NotFoundError, r"manifest unknown|MANIFEST_UNKNOWN|NAME_UNKNOWN|name unknown|repository name not known"
                    r"|no matching manifest|no image found in (manifest list|image index)",
     "the registry has no {base}", "look for the name and the platform at the registry"),
    (NetworkError, r"no such host|Temporary failure in name resolution|server misbehaving"
                   r"|failed to lookup address information|Name or service not known",
     "a host name could not be resolved: is there a network here?", "getent hosts REGISTRY"),
    (NetworkError, r"dial tcp|i/o timeout|connection refused|network is unreachable|TLS handshake timeout"
                   r"|context deadline exceeded|Failed to establish a new connection|tcp connect error"
                   r"|Client\.Timeout|operation timed out|Read timed out|error sending request"
                   r"|5\d\d (Service Unavailable|Bad Gateway|Gateway Time-?out|Internal Server Error)",
     "the other side could not be reached or did not answer in time", "try again; is a proxy needed here?"),
    (NetworkError, r"certificate signed by unknown authority|x509: |CERTIFICATE_VERIFY_FAILED|UnknownIssuer",
     "a certificate was not trusted", "export SSL_CERT_FILE=/path/to/your/certificates.pem"),
)  # fmt: skip


def explain(
    what: str,
    output: str,
    base: str | None,
    *,
    error: type[SlipworksError] = BuildError,
    code: int | None = None,
    context: Mapping[str, str] = {},
) -> SlipworksError:
    """The error for an output: of the kind that it tells of, or `error` with the last lines.

    `context` has the texts that the build reads, by name; the lock that a hash stands in is among them.
    """
    if mismatch := hash_mismatch(output):
        lock = _lock_of(mismatch, context)
        where = f" (lock: {lock})" if lock else ""
        line = f"--line {lock.split('/')[1]} " if lock and lock.startswith("stacks/") else ""
        return HashMismatchError(
            f"could not {what}: {mismatch}{where}; nothing was installed",
            f"`runner lock {line}--again` if the index has other files now; if not, a mirror alters them",
        )
    for kind, pattern, says, hint in KNOWN:
        if found := re.search(pattern, output, re.IGNORECASE):
            quoted = _line_of(output, found.start())
            if base and kind is NetworkError and _PULL.search(quoted):
                says = f"{says} (pulling {{base}})"
            return kind(f"could not {what}: {says.format(base=base or 'it')}: {quoted}", hint)
    ended = f": ended with exit code {code}" if code is not None else ""
    lines = [line for line in output.splitlines() if line.strip()][-process.TAIL :]
    tail = "".join(f"\n  {line}" for line in lines)
    return error(f"could not {what}{ended}{', its last lines:' if tail else ''}{tail}")


def hash_mismatch(output: str) -> str | None:
    """Which package and file had another hash than the lock says, as uv and pip tell it."""
    lines = [_plain(line) for line in output.splitlines()]
    text = "\n".join(lines)
    if uv := re.search(
        r"Hash mismatch for `([^`]+)`\s+Expected:\s+(.+?)\s+Computed:\s+(\S+)", text, re.DOTALL
    ):
        promised = uv[2].split()
        file = re.search(rf"Selecting: {re.escape(uv[1])} .*\((\S+)\)", text)
        which = f"{uv[1]} ({file[1]})" if file else uv[1]
        return f"{which} has another hash than its lock: found {uv[3]}, expected {promised[0]}"
    if pip := re.search(r"THESE PACKAGES DO NOT MATCH THE HASHES.*?\n\s*(\S.*?):?\n(.*)", text, re.DOTALL):
        wanted = re.search(r"Expected (?:\w+ )?(\w+)", pip[2])
        got = re.search(r"Got\s+(\w+)", pip[2])
        name = pip[1].split(" from ")[0].strip()
        file = re.search(r"([\w.+-]+\.(?:whl|tar\.gz|zip))", pip[1])
        which = f"{name} ({file[1]})" if file and file[1] != name else name
        return (
            f"{which} has another hash than its lock: found sha256:{got[1] if got else '?'}, "
            f"expected sha256:{wanted[1] if wanted else '?'}"
        )
    return None


def stream(
    argv: Sequence[str],
    *,
    what: str,
    base: str | None,
    update: Callable[[str], None],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    context: Mapping[str, str] = {},
    alone: bool = True,
) -> None:
    """Runs a long command of an engine; a failure is explained by all that it said.

    A long silence is told once, unless it is not alone: mksquashfs packs gigabytes without a word.
    Lines lose credentials in addresses before anyone sees them: apptainer traces the commands of a %post.
    """
    said: deque[str] = deque(maxlen=KEPT)
    heard = threading.Event()

    def on_line(line: str) -> None:
        line = CREDENTIALS.sub("//…@", line)
        said.append(line)
        heard.set()
        update(line)

    with _silence_told(what, said, heard) if alone else contextlib.nullcontext():
        code = process.stream(argv, what=what, on_line=on_line, cwd=cwd, env=env, check=False)
    if code:
        raise explain(what, "\n".join(said), base, code=code, context=context)


@contextlib.contextmanager
def _silence_told(what: str, said: Sequence[str], heard: threading.Event) -> Iterator[None]:
    """Tells, once, when nothing new was said for QUIET seconds, and what was said last."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(QUIET):
            if not heard.is_set():
                last = said[-1] if said else ""
                after = f", after: {shortened(_plain(last.strip()))}" if last else ""
                say.say(f"still trying to {what}: not a word for {QUIET:.0f} s{after}")
                return
            heard.clear()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


QUIET = 30.0  # seconds

CREDENTIALS = re.compile(r"//[^/@\s]+@(?!sha256:)")
"""Before the host in an address; what stands before the digest of an image's reference is none."""
_PULL = re.compile(r"/v2/|docker://|container registry")


def _plain(line: str) -> str:
    """Without terminal colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", line)


def _line_of(text: str, at: int) -> str:
    """The line around a position, without what would be long or secret: addresses lose their credentials."""
    line = _plain(text[text.rfind("\n", 0, at) + 1 : (text + "\n").find("\n", at)].strip())
    return shortened(CREDENTIALS.sub("//…@", line))


def shortened(line: str) -> str:
    """A line's end, from the beginning of a word on: there stands the cause."""
    if len(line) <= LONGEST:
        return line
    end = line[-LONGEST:]
    return f"… {end.partition(' ')[2] or end}"


LONGEST = 300


def _lock_of(mismatch: str, context: Mapping[str, str]) -> str | None:
    """Which text of the build promised the hash."""
    promised = mismatch.rpartition("expected ")[2]
    return next((name for name, text in context.items() if name.endswith(".lock") and promised in text), None)
