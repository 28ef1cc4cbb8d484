"""A file of a backup, sent to the browser as it comes; never whole in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import quote

import click
from anyio import fail_after
from ostler.control.v1 import backup_pb2 as pb
from ostler_common.errors import OstlerError
from ostler_common.text import printable
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ostler_control.cli.app import App
from ostler_control.cli.backup_files import answers, shown
from ostler_control.cli.failure import lines
from ostler_control.cli.transfers import Digest
from ostler_control.web.readings import Call, Readings, in_thread

SEND_S = 300.0  # how long the browser may take to accept a piece
MAX_NAME = 120  # characters of a file's name
_RESERVED = frozenset('/\\:*?"<>|')


def saved_name(path: bytes, archive: bool) -> str:
    """What the browser shall call the file: nothing that hides what it is, or that is a place elsewhere."""
    name = path.rstrip(b"/").rpartition(b"/")[2].decode(errors="replace") or "files"
    safe = "".join(one if one.isprintable() and one not in _RESERVED else "_" for one in name)[-MAX_NAME:]
    return f"{safe}.tar" if archive else safe


class Download(Response):
    """A file as the API sends it. Where it is not whole, the connection is broken off: no browser takes it for whole.

    It has no Content-Length: with one, browsers begin a broken download again by themselves, and a host would read
    everything again each time.
    """

    def __init__(
        self,
        app: App,
        readings: Readings,
        backup: str,
        path: bytes,
        open_call: Callable[[], Call[pb.ReadBackupFilesResponse]],
    ) -> None:
        super().__init__()
        self._app, self._readings, self._open_call = app, readings, open_call
        self._backup, self._path = backup, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._readings.running(self._open_call, receive) as reading:
            parts = answers(reading, self._backup)
            # An error before the content is a page of its own.
            last = await in_thread(lambda: next(filter(_has_begun, parts)))
            await send(self._start(last.archive))
            digest = Digest()
            answer: pb.ReadBackupFilesResponse | None = last
            try:
                while answer is not None:
                    last = answer
                    digest.add(last.data)
                    with fail_after(SEND_S):
                        await send({"type": "http.response.body", "body": last.data, "more_body": True})
                    answer = await in_thread(lambda: next(parts, None))
                digest.check(digest.size_bytes, last.sha256, shown(self._path))
            except OstlerError as error:
                if not reading.is_over:
                    self._complain(lines(error, self._app))
                return
            except TimeoutError:
                self._complain(["the browser does not accept it any more"])
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start(self, archive: bool) -> dict[str, object]:
        name = quote(saved_name(self._path, archive), safe="")
        headers = {
            "content-type": "application/octet-stream",
            "content-disposition": f"attachment; filename*=UTF-8''{name}",
        }
        raw = [(title.encode(), value.encode()) for title, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": raw}

    def _complain(self, why: Sequence[str]) -> None:
        """The browser only says that it failed."""
        for line in (f"download of {shown(self._path)} from backup {self._backup} failed", *why):
            click.echo(printable(line), err=True)


def _has_begun(answer: pb.ReadBackupFilesResponse) -> bool:
    return bool(answer.archive or answer.size_bytes or answer.data or answer.complete)
