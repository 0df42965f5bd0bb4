"""How the agent-server starts in a base that may have anything or nothing.

What the server's children get is the environment that it was given, with two words more: the layer's programs
at the end of PATH, so that what the base has of its own is what they find, and HOME where there is none.
"""

from __future__ import annotations

import gc
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

HERE = "{folder}"
NAME = "openhands-agent-server"
NAMES = (NAME, f"/usr/local/bin/{NAME}", f"{HERE}/bin/{NAME}")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Read when the server's parts are imported, and by nothing later: without the first, the import asks the
# internet for a price list, and for seconds where there is none.
DEFAULTS = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENHANDS_SUPPRESS_BANNER": "1"}

TMUX = (3, 2)  # libtmux 0.62 wants 3.2a


def start() -> int:
    """The image's entrypoint: the server with its options, under any of its names, or another command."""
    command = sys.argv[1:]
    if command and not command[0].startswith("-"):
        if command[0] not in NAMES:
            become(command)
        command = command[1:]
    sys.argv = [NAME, *command]
    return server()


def become(command: Sequence[str]) -> NoReturn:
    """Gives way to a command of the base, in the environment and with the signals as they were given."""
    for each in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(each, signal.SIG_DFL)  # the interpreter ignores them
    try:
        os.execvp(command[0], list(command))
    except OSError as reason:
        sys.stderr.write(f"start: cannot run {command[0]}: {reason.strerror}\n")
        sys.exit(127 if isinstance(reason, FileNotFoundError) else 126)


def server() -> int:
    """Runs the server until it ends."""
    os.environ["PATH"] = search(os.environ)
    if not os.environ.get("HOME"):
        os.environ["HOME"] = home()
    certify()
    main = imported()
    settle()
    main()
    return 0


def imported() -> Callable[[], None]:
    """The server's own start. What takes the time is to import it, a fifth of that to look for garbage."""
    added = {name: value for name, value in DEFAULTS.items() if name not in os.environ}
    os.environ.update(added)
    gc.disable()
    try:
        import litellm  # noqa: F401
        from openhands.agent_server.__main__ import main
    finally:
        gc.enable()
        gc.freeze()
        for name in added:
            del os.environ[name]
    found: Callable[[], None] = main
    return found


def settle() -> None:
    """Where the working folder is not ours to write to, what the server keeps is kept elsewhere.

    It takes paths below `workspace` for that, in the working folder: which stays what it is, for commands.
    """
    from openhands.agent_server import config

    told = config.get_default_config()  # read once: the server asks for the same
    moved = {name: value for name, value in told if isinstance(value, Path) and not value.is_absolute()}
    if not moved or writable(Path("workspace") if Path("workspace").exists() else Path()):
        return
    own = Path(os.environ["HOME"], ".openhands/agent-server")
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError:
        own = Path(tempfile.mkdtemp(prefix="openhands-agent-server-"))
    config._default_config = told.model_copy(update={name: own / path for name, path in moved.items()})


def writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def search(given: Mapping[str, str], bash: str = "/bin/bash") -> str:
    """PATH, with the layer's git and bash at the end, and its tmux.

    The base's own tmux is the one that is used, unless the server could not work with it: then the layer's,
    alone of all its programs, comes first. The server runs `/bin/bash` in it: in a base that has none, tmux
    is left out, and the server does without by its own means, with the bash that PATH has.
    """
    path = given.get("PATH") or SYSTEM_PATH
    whole = f"{path}:{HERE}/programs"
    if not os.access(bash, os.X_OK):
        return whole
    own = shutil.which("tmux", path=path)
    if own and not suits(own, given):
        return f"{HERE}/tmux:{whole}"
    return f"{whole}:{HERE}/tmux"


def suits(tmux: str, given: Mapping[str, str]) -> bool:
    """Whether the server can work with a tmux of the base: one that is not too old, and writes UTF-8."""
    named = next((given[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if given.get(name)), "")
    if not re.search("utf-?8", named, re.IGNORECASE):
        return False
    try:
        told = subprocess.run([tmux, "-V"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.search(r"(\d+)\.(\d+)", told)
    return found is not None and (int(found[1]), int(found[2])) >= TMUX


def home() -> str:
    """Of the user; of one whom the base does not know, that which engines give such a one."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)  # fmt: skip


def certify() -> None:
    """Lets the interpreter find certificates in a base that keeps them where Debian does not, or has none.

    Not by a variable: those of children are the base's own matter.
    """
    import ssl

    own = ssl.get_default_verify_paths()
    if own.cafile or (own.capath and any(Path(own.capath).iterdir())):
        return
    bundle = next((each for each in CERTIFICATES if Path(each).is_file()), None)
    if bundle is None:
        import certifi

        bundle = certifi.where()
    plain = ssl.SSLContext.load_default_certs

    def load(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        plain(context, purpose)
        context.load_verify_locations(cafile=bundle)

    ssl.SSLContext.load_default_certs = load  # type: ignore[method-assign, assignment]
