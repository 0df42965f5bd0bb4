"""A wire that is long: passes a TCP port on, each byte so many seconds later, and counts what goes through.

    python -m tests.bench.relay HOST:PORT SECONDS      prints its own port; on SIGTERM the bytes each way

A process of its own, so that it takes no time of the program that is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from kit import say


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, count: list[int]
) -> None:
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    clock = asyncio.get_running_loop().time

    async def give() -> None:
        while True:
            due, piece = await waiting.get()
            if (left := due - clock()) > 0:
                await asyncio.sleep(left)
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    giving = asyncio.create_task(give())
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(2**16):
            count[0] += len(piece)
            waiting.put_nowait((clock() + delay, piece))
    waiting.put_nowait((clock() + delay, b""))
    with contextlib.suppress(ConnectionError):
        await giving


async def _serve(host: str, port: int, delay: float) -> None:
    up, down = [0], [0]

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(
            _pass_on(reader, far_writer, delay, up), _pass_on(far_reader, writer, delay, down)
        )
        far_writer.close()
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    say.answer(str(server.sockets[0].getsockname()[1]))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    say.answer(f"{up[0]} {down[0]}")
    os._exit(0)  # connections that are open have nothing more to say


if __name__ == "__main__":
    where, seconds = sys.argv[1:]
    name, _, number = where.rpartition(":")
    asyncio.run(_serve(name, int(number), float(seconds)))
