"""What packages' own scripts would have made and an image needs, made from the packages' files alone.

Each function looks for what its package brings and does nothing where it is not there. The scripts themselves
still run where somebody goes on with apt in the image: they find what they would have made.
"""

from __future__ import annotations

from containers.root_tar import MERGED, RootTar

_SHADOW = 42  # group shadow: the same number in every Debian and Ubuntu
_CERTIFICATES = "usr/share/ca-certificates"

_PRIORITY = 5  # no higher than any package's own
_LOCAL = ("bin", "etc", "include", "lib", "sbin", "share", "src")

# name -> the link, and what it may lead to, the best first; as update-alternatives has it.
_ALTERNATIVES = {
    "awk": ("usr/bin/awk", ("gawk", "mawk")),
    "cc": ("usr/bin/cc", ("gcc",)),
    "c++": ("usr/bin/c++", ("g++",)),
    "c89": ("usr/bin/c89", ("c89-gcc",)),
    "c99": ("usr/bin/c99", ("c99-gcc",)),
    "cpp": ("usr/lib/cpp", ("cpp",)),
    "pager": ("usr/bin/pager", ("less", "more")),
    "proxychains": ("usr/bin/proxychains", ("proxychains4",)),
    "which": ("usr/bin/which", ("which.debianutils",)),
}
# Files that base-files and libc-bin bring as examples, and put in place when they are configured first.
_EXAMPLES = {
    "etc/profile": "usr/share/base-files/profile",
    "etc/motd": "usr/share/base-files/motd",
    "root/.bashrc": "usr/share/base-files/dot.bashrc",
    "root/.profile": "usr/share/base-files/dot.profile",
    "etc/nsswitch.conf": "usr/share/libc-bin/nsswitch.conf",
}


def root(made: RootTar) -> None:
    """What a whole root file system needs: folders, links, users, names."""
    for name in MERGED:
        if not made.names(f"usr/{name}"):
            made.entries.pop(name, None)
    for name in ("home", "media", "mnt", "opt", "srv", *(f"usr/local/{each}" for each in _LOCAL)):
        made.folder(name)
    made.folder("run/lock", 0o1777)
    if made.is_file("usr/bin/dash"):
        made.link("usr/bin/sh", "dash")
    accounts(made)
    logins(made)
    for path, example in _EXAMPLES.items():
        if made.is_file(example) and not made.is_file(path):
            made.text(path, made.read(example))
    if not made.is_file("etc/nsswitch.conf") and made.is_file("usr/share/base-files/nsswitch.conf"):
        made.text("etc/nsswitch.conf", made.read("usr/share/base-files/nsswitch.conf"))
    shells = [f"/{path}" for path in ("bin/sh", "usr/bin/sh", "bin/bash", "usr/bin/bash") if made.real(path)]
    made.text("etc/shells", "".join(f"{path}\n" for path in ["# /etc/shells: valid login shells", *shells]))
    made.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    made.text("etc/environment", "")
    settled(made)


def settled(made: RootTar) -> None:
    """What packages need wherever they are added."""
    alternatives(made)
    certificates(made)


def accounts(made: RootTar) -> None:
    """The distribution's users and groups. No password lets anyone in."""
    for name, shadow, tail in (
        ("passwd", "shadow", ":*:19000:0:99999:7:::"),
        ("group", "gshadow", ":*::"),
    ):
        text = made.read(f"usr/share/base-passwd/{name}.master").decode()
        # The package marks what its own script fills in.
        lines = [line.replace(":*:", ":x:", 1) for line in text.splitlines()]
        made.text(f"etc/{name}", "".join(f"{line}\n" for line in lines))
        hidden = "".join(f"{line.split(':')[0]}{tail}\n" for line in lines)
        made.text(f"etc/{shadow}", hidden, 0o640, _SHADOW)


def logins(made: RootTar) -> None:
    """The settings that PAM's programs (su, login, chpasswd) include, as they are with no further modules."""
    if not made.is_file("usr/share/pam-configs/unix"):
        return
    for kind, option in (("account", ""), ("auth", " nullok"), ("password", " obscure yescrypt")):
        made.text(f"etc/pam.d/common-{kind}", f"{kind}\trequired\tpam_unix.so{option}\n")
    for name in ("session", "session-noninteractive"):
        made.text(f"etc/pam.d/common-{name}", "session\trequired\tpam_unix.so\n")


def alternatives(made: RootTar) -> None:
    """Links to the program that stands for a general name, unless something has that name already.

    Noted as update-alternatives does, or it would take them for someone's own choice.
    """
    for name, (path, choices) in _ALTERNATIVES.items():
        chosen = next((f"/usr/bin/{each}" for each in choices if made.is_file(f"usr/bin/{each}")), None)
        if chosen is None or made.real(path) is not None:
            continue
        made.link(f"etc/alternatives/{name}", chosen)
        made.link(path, f"/etc/alternatives/{name}")
        made.text(f"var/lib/dpkg/alternatives/{name}", f"auto\n/{path}\n\n{chosen}\n{_PRIORITY}\n\n")


def certificates(made: RootTar) -> None:
    """The bundle of all certificates that ca-certificates brings, and the list that it is made again from."""
    files = list(made.matching(rf"{_CERTIFICATES}/.*\.crt"))
    if not files:
        return
    made.text(
        "etc/ssl/certs/ca-certificates.crt", b"".join(made.read(each).rstrip() + b"\n" for each in files)
    )
    names = [path.removeprefix(f"{_CERTIFICATES}/") for path in files]
    made.text("etc/ca-certificates.conf", "".join(f"{name}\n" for name in names))
