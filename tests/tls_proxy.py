"""Ends TLS in front of a server that speaks none. Knows nothing of what passes through."""

import asyncio
import ssl
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

_CHUNK_BYTES = 2**16


class TlsProxy:
    """Takes TLS on a free port of loopback and forwards what it reads to `target`.

    A process of its own: its connections end with it, whatever state they are in.

    Args:
        certificate: chain and private key in PEM.
        target: a port of loopback.
    """

    def __init__(self, certificate: Path, target: int) -> None:
        command = [sys.executable, str(Path(__file__)), str(certificate), str(target)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)


async def _forward(certificate: str, target: int) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError), closing(writer):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()


if __name__ == "__main__":
    asyncio.run(_forward(sys.argv[1], int(sys.argv[2])))
