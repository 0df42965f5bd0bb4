"""A way into a running node: commands beside the job's, in its container, with its environment.

No engine is asked, for none of them does it alike (Apptainer not at all): the node itself listens. Its
address is an abstract Unix socket, which containers share with their host as they share its network, which
no file system has to carry, and which ends with the node. The kernel says who calls: only the job's own
user is let in.

One request a connection. The caller sends {"argv": […], "terminal": [rows, columns] or null} with its
standard streams as file descriptors, or without any for a terminal, of which it then gets the other end. At
the end it is told {"code": N}; should it hang up before that, what it had started is ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import DecodeError, Struct, ValidationError, json

from kit import process, say
from kit.errors import LaunchError, NotFoundError, SlipworksError

LONGEST = 1 << 20  # bytes of a request
PATIENCE = 10.0  # seconds for the node to answer at all


class Request(Struct, frozen=True):
    argv: tuple[str, ...]
    terminal: tuple[int, int] | None = None


class Answer(Struct, frozen=True):
    code: int
    why: str = ""


def address(run_id: str, rank: int) -> str:
    """Of a node's socket; the NUL in front makes it abstract."""
    return f"\0slipworks-{run_id}-{rank}"


class Door:
    """Lets callers in from `with` to its end; what they had started is ended then.

    env, cwd: of what they start, asked anew each time.
    """

    def __init__(self, where: str, env: Callable[[], Mapping[str, str]], cwd: str | None) -> None:
        self.where, self.env, self.cwd = where, env, cwd
        self._children: list[process.Child[bytes]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> Door:
        try:
            self._socket.bind(self.where)
            self._socket.listen()
        except OSError as taken:  # a node that cannot be entered is better than none
            say.say(f"note: nobody can attach to this node: {taken.strerror}")
        else:
            threading.Thread(target=self._listen, name="door", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for child in self._children:
            if child.poll() is None:
                process.end_group(child, grace=1.0)

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:  # closed: the node ends
                return
            threading.Thread(target=self._serve, args=(caller,), name="caller", daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError):
            if not _is_ours(caller):
                return
            try:
                request, streams = _received(caller)
                answer = self._run(caller, request, streams)
            except SlipworksError as refused:
                answer = Answer(refused.code, refused.message)
            except (DecodeError, ValidationError):
                answer = Answer(LaunchError.code, "the request could not be read")
            caller.send(json.encode(answer))

    def _run(self, caller: socket.socket, request: Request, streams: list[int]) -> Answer:
        if request.terminal:
            ours, theirs = os.openpty()
            _resize(ours, request.terminal)
            with _closing(ours):
                streams = [theirs] * 3
                socket.send_fds(caller, [b"{}"], [ours])
        elif len(streams) != 3:
            raise LaunchError(f"found {len(streams)} streams, expected 3")
        with _closing(*streams):
            child = process.hand_over(
                request.argv, what=f"run {request.argv[0]}", streams=(streams[0], streams[1], streams[2]),
                env=dict(self.env()), cwd=self.cwd, terminal=request.terminal is not None,
            )  # fmt: skip
        self._children.append(child)
        _until_ended(child, caller)
        return Answer(128 - child.returncode if child.returncode < 0 else child.returncode)


def call(where: str, argv: Sequence[str], rank: int) -> int:
    """Runs `argv` in the node and returns its exit code; on a terminal if this process has one.

    NotFoundError if no such node listens on this machine.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as node:
        node.settimeout(PATIENCE)
        try:
            node.connect(where)
        except OSError as nobody:
            raise NotFoundError(f"node {rank} of this run does not run on this machine") from nobody
        if not _is_ours(node):  # anybody may listen under any name
            raise LaunchError(f"another user of this machine listens in place of node {rank}")
        request = Request(tuple(argv), termios.tcgetwinsize(sys.stdin) if interactive else None)
        streams = [] if interactive else [sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()]
        try:
            socket.send_fds(node, [json.encode(request)], streams)
            if interactive:
                _proxy(node)
            node.settimeout(None)
            answer = json.decode(node.recv(LONGEST), type=Answer)
        except (OSError, DecodeError, ValidationError) as cut:
            raise LaunchError(f"node {rank} has ended, or does not let this user in") from cut
    if answer.why:
        raise LaunchError(answer.why)
    return answer.code


def _proxy(node: socket.socket) -> None:
    """Carries bytes between this process's terminal and the one that the node made, until that is closed."""
    first, received, _, _ = socket.recv_fds(node, LONGEST, 1)
    if not received:
        answer = json.decode(first, type=Answer) if first else Answer(0, "the node did not let us in")
        raise LaunchError(answer.why)
    (remote,) = received
    here, there = sys.stdin.fileno(), sys.stdout.fileno()
    before = termios.tcgetattr(here)
    resized = signal.signal(signal.SIGWINCH, lambda *_: _resize(remote, termios.tcgetwinsize(here)))
    try:
        tty.setraw(here)
        with _closing(remote):
            sources = [here, remote]
            while remote in sources:
                for ready in select.select(sources, [], [])[0]:
                    data = _read(ready)
                    if not data:
                        sources.remove(ready)
                    elif ready == here:
                        os.write(remote, data)
                    else:
                        os.write(there, data)
    finally:
        signal.signal(signal.SIGWINCH, resized)
        termios.tcsetattr(here, termios.TCSADRAIN, before)


def _read(stream: int) -> bytes:
    try:
        return os.read(stream, 65536)
    except OSError:  # a terminal whose last process has ended
        return b""


def _received(caller: socket.socket) -> tuple[Request, list[int]]:
    data, streams, _, _ = socket.recv_fds(caller, LONGEST, 3)
    try:
        request = json.decode(data, type=Request)
    except (DecodeError, ValidationError):
        for stream in streams:
            os.close(stream)
        raise
    return request, list(streams)


def _until_ended(child: process.Child[bytes], caller: socket.socket) -> None:
    """Waits for the child; ends it when the caller hangs up."""
    alive = os.pidfd_open(child.pid)
    with _closing(alive):
        ready, _, _ = select.select([alive, caller.fileno()], [], [])
    if alive not in ready:
        process.end_group(child, grace=1.0)
    child.wait()


def _is_ours(other: socket.socket) -> bool:
    """Whether the other end is this process's own user: by the kernel, in this process's user namespace."""
    raw = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", raw)
    return bool(user == os.geteuid())


def _resize(terminal: int, size: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):
        termios.tcsetwinsize(terminal, size)


@contextlib.contextmanager
def _closing(*streams: int) -> Iterator[None]:
    try:
        yield
    finally:
        for stream in set(streams):
            with contextlib.suppress(OSError):
                os.close(stream)
