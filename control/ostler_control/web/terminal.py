"""A VM's serial console or its screen in the browser: a WebSocket joined to the API's stream.

Binary messages are the bytes of the console, or of the screen's VNC protocol, in both directions. Of a console a text
message tells why it ended; a screen's viewer reads no texts, so that the socket is closed with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from anyio import CapacityLimiter, to_thread
from ostler.client.consoles import ConsoleStream, ScreenStream
from ostler_common.errors import OstlerError
from starlette.websockets import WebSocket, WebSocketDisconnect

from ostler_control.cli.app import App

# Consoles at once. Each holds a thread, and none of the pages' threads.
MAX_TERMINALS = 16
MAX_MESSAGE_BYTES = 64 << 10
# Messages that wait for a guest that does not read; then the browser waits.
MAX_WAITING = 64
WAITING_S = 0.05
# How long the browser may take to accept what the guest prints.
SEND_S = 60.0


# Bytes of a WebSocket's close reason (RFC 6455, 5.5.1), which are 123.
MAX_REASON_BYTES = 120


class Stream(Protocol):
    def type(self, data: bytes) -> None: ...
    def waiting(self) -> int: ...
    def close(self) -> None: ...
    def __iter__(self) -> Iterator[bytes]: ...


# Opens the stream of a VM; the flag says whether to take it over.
Opener = Callable[[App, str, bool], Stream]


def open_console(app: App, vm: str, force: bool) -> Stream:
    return ConsoleStream(app.client.vms, vm, force)


def open_screen(app: App, vm: str, force: bool) -> Stream:
    return ScreenStream(app.client.vms, vm, force)


class Terminals:
    """The open consoles, or screens. says_why: whether a text message tells why one ended."""

    def __init__(self, app: App, opener: Opener = open_console, says_why: bool = True) -> None:
        self._app = app
        self._opener = opener
        self._says_why = says_why
        self._open = 0

    async def converse(self, socket: WebSocket) -> None:
        """Joins an accepted socket to that of {vm} until one of both ends. ?force=yes takes the console over."""
        await socket.accept()
        if self._open >= MAX_TERMINALS:
            why = f"{MAX_TERMINALS} consoles are open already [TOO_MANY_CONSOLES]"
        else:
            self._open += 1
            try:
                why = await self._join(socket)
            finally:
                self._open -= 1
        try:
            if self._says_why:
                await socket.send_text(why)
            await socket.close(reason=why.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))
        except (WebSocketDisconnect, RuntimeError):  # the browser has gone
            pass

    async def _join(self, socket: WebSocket) -> str:
        """Why it ended."""
        force = socket.query_params.get("force") == "yes"
        stream = self._opener(self._app, socket.path_params["vm"], force)
        loop = asyncio.get_running_loop()

        def read() -> str:
            try:
                for data in stream:
                    asyncio.run_coroutine_threadsafe(socket.send_bytes(data), loop).result(SEND_S)
            except OstlerError as error:
                return f"{error.message} [{error.reason}]"
            except (WebSocketDisconnect, RuntimeError, TimeoutError):
                return "the browser does not answer"
            return "the console has ended"

        reading = asyncio.ensure_future(to_thread.run_sync(read, limiter=CapacityLimiter(1)))
        writing = asyncio.ensure_future(_receive(socket, stream))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stream.close()
            writing.cancel()
        return await reading


async def _receive(socket: WebSocket, stream: Stream) -> None:
    """Passes on what the browser sends until it leaves."""
    try:
        async for data in socket.iter_bytes():
            while stream.waiting() >= MAX_WAITING:
                await asyncio.sleep(WAITING_S)
            stream.type(data)
    except (KeyError, RuntimeError):  # text, which no page of ours sends
        return
