"""Bytes passed on between two connections, and connections that notice when their peer is gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket

MAX_BUFFER_BYTES = 64 * 1024
_CLOSE_S = 5.0


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Passes bytes on until the source ends."""
    while data := await source.read(MAX_BUFFER_BYTES):
        target.write(data)
        await target.drain()


async def close(writer: asyncio.StreamWriter) -> None:
    """Sends what is left, for a short time, and closes."""
    writer.close()
    with contextlib.suppress(OSError):
        await asyncio.wait_for(writer.wait_closed(), _CLOSE_S)
    writer.transport.abort()


def set_keepalive(connection: socket.socket) -> None:
    """Ends connections whose peer is gone. A silent peer is not gone: libvirt's own keepalive may be off."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
