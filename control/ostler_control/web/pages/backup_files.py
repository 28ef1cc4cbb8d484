"""Single files of a backup: lists of file systems and directories, and downloads.

A host reads them in a small VM, which takes long, is an operation, and keeps the backup busy. So these pages are not
followed, and read only what their own form or link asks for.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import parse_qs, urlencode

from ostler.control.v1 import backup_pb2 as pb
from ostler.types.v1.backup_file_pb2 import BackupFile, BackupFileSystem
from ostler_common.errors import OstlerError, PermissionDeniedError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import text
from ostler_control.cli.app import App
from ostler_control.cli.backup_files import FILE_SYSTEMS, FILES, MORE, answers, shown
from ostler_control.cli.failure import lines
from ostler_control.web import tables
from ostler_control.web.backup_download import Download
from ostler_control.web.context import Console, command, status_of
from ostler_control.web.forms import Button
from ostler_control.web.readings import Call, Readings, in_thread
from ostler_control.web.tables import Cell, Table

# How long a list may take, with the wait for a host; and a download, which a host sends for six hours at most.
LIST_S, DOWNLOAD_S = 600.0, 7 * 3600.0


@dataclass(frozen=True)
class Wanted:
    """What the address asks for. path: any bytes; None: nothing yet."""

    backup: str
    path: bytes | None
    file_system: str

    @classmethod
    def of(cls, request: Request) -> Wanted:
        # Starlette's own query loses bytes that are no UTF-8.
        query = request.scope["query_string"].decode("ascii", "replace")
        given = parse_qs(query, keep_blank_values=True, errors="surrogateescape")
        path = given["path"][-1].encode(errors="surrogateescape") if "path" in given else None
        return cls(request.path_params["backup"], path, request.query_params.get("filesystem", "").strip())

    def call(self, app: App, content: bool) -> Call[pb.ReadBackupFilesResponse]:
        asked = pb.ReadBackupFilesRequest(
            backup=self.backup, path=self.path or b"", file_system=self.file_system, content=content
        )
        return app.client.backups.ReadBackupFiles(asked, timeout=DOWNLOAD_S if content else LIST_S)

    def address(self, path: bytes, *parts: str) -> str:
        """Of another path of the same backup and file system."""
        values = {"path": path, "filesystem": self.file_system}
        return f"{tables.path('backups', self.backup, 'files', *parts)}?{urlencode(values)}"


class BackupFiles:
    """The endpoints. They are not called in a thread, because they wait for the browser as well as for the API."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._readings = Readings()

    async def page(self, request: Request) -> Response:
        """The form; with a path, what it lists."""
        app, wanted = self._console.app, Wanted.of(request)
        wanted_backup = pb.GetBackupRequest(backup=wanted.backup)
        backup = await run_in_threadpool(lambda: app.client.backups.GetBackup(wanted_backup))
        found: list[pb.ReadBackupFilesResponse] = []
        failure: OstlerError | None = None
        if wanted.path is not None and _is_ours(request):
            try:
                async with self._readings.running(lambda: wanted.call(app, False), request.receive) as reading:
                    found = await in_thread(lambda: list(answers(reading, backup.name)))
            except OstlerError as error:
                failure = error
        return await run_in_threadpool(self._render, request, wanted, backup, found, failure)

    async def content(self, request: Request) -> Response:
        """A file, or a directory as a tar archive."""
        if not _is_ours(request):
            raise PermissionDeniedError("open files of backups from the console's own page", "WRONG_ORIGIN")
        app, wanted = self._console.app, Wanted.of(request)
        open_call = partial(wanted.call, app, True)
        return Download(app, self._readings, wanted.backup, wanted.path or b"", open_call)

    def _render(
        self,
        request: Request,
        wanted: Wanted,
        backup: pb.Backup,
        found: Sequence[pb.ReadBackupFilesResponse],
        failure: OstlerError | None,
    ) -> Response:
        path, href = wanted.path or b"", tables.path("backups", wanted.backup)
        table = _table(wanted, found) if found else None
        place = _place_of(path, [file for answer in found for file in answer.files])
        saved = f" {_in_shell(place + b'/FILE')} FILE" if found and path else ""
        chosen = f" --filesystem {shlex.quote(wanted.file_system)}" if wanted.file_system else ""
        return self._console.render(
            request,
            "backup_files.html",
            status_of(failure) if failure else 200,
            title=f"Files of {backup.name}",
            here="/backups",
            back=(backup.name, href),
            list_command=command("backup", "file", "list", backup.name),
            command=command("backup", "file", "list", backup.name) + (f" {_in_shell(path)}" if path else "") + chosen,
            download_command=command("backup", "file", "download", backup.name) + saved + chosen if saved else "",
            file_system=wanted.file_system,
            path=path.decode() if _is_text(path) else "",
            is_text=_is_text(path),
            failure=lines(failure, self._console.app) if failure else (),
            table=table,
            more=f"{MORE[0].upper()}{MORE[1:]}." if any(answer.more for answer in found) else "",
            buttons=_buttons(wanted) if found else [],
            links=[("Its operations", tables.address("/operations", {"resource": backup.id}))],
        )


def _is_ours(request: Request) -> bool:
    """Whether the user asks, not a link on another site's page, nor a browser that looks ahead."""
    site = request.headers.get("sec-fetch-site", "none")
    return request.method == "GET" and site in ("same-origin", "none") and "sec-purpose" not in request.headers


def _table(wanted: Wanted, found: Sequence[pb.ReadBackupFilesResponse]) -> Table:
    if not wanted.path:
        systems = [one for answer in found for one in answer.file_systems]
        return tables.table(FILE_SYSTEMS, systems, "File systems", partial(_root, wanted))
    files = [one for answer in found for one in answer.files]
    place = _place_of(wanted.path, files)
    *others, name = FILES.columns
    view = replace(FILES, columns=[name, *others])
    listed = tables.table(view, files, shown(wanted.path), lambda file: _file_address(wanted, place, file))
    # As an archive, or what a link leads to.
    downloads = [_download_cell(wanted, place, file) for file in files]
    rows = [[*row, cell] for row, cell in zip(listed.rows, downloads, strict=True)]
    return Table(listed.caption, [*listed.titles, "download"], rows)


def _root(wanted: Wanted, system: BackupFileSystem) -> str:
    return replace(wanted, file_system=system.name).address(b"/")


def _place_of(path: bytes, files: Sequence[BackupFile]) -> bytes:
    """The directory of what is listed: the path; or its parent, where it is no directory and so is listed alone."""
    parent, _, name = path.rstrip(b"/").rpartition(b"/")
    is_alone = len(files) == 1 and files[0].name == name and files[0].kind != BackupFile.DIRECTORY
    return parent if is_alone and not path.endswith(b"/") else path.rstrip(b"/")


def _file_address(wanted: Wanted, place: bytes, file: BackupFile) -> str:
    """Where a name leads: a file is downloaded, a directory and what a link leads to are listed."""
    path = place + b"/" + file.name
    if file.kind == BackupFile.FILE:
        return wanted.address(path, "content")
    if file.kind == BackupFile.DIRECTORY:
        return wanted.address(path + b"/")
    return wanted.address(path) if file.kind == BackupFile.LINK else ""


def _download_cell(wanted: Wanted, place: bytes, file: BackupFile) -> Cell:
    path = place + b"/" + file.name
    if file.kind == BackupFile.DIRECTORY:
        return Cell(f"{shown(file.name)}.tar", wanted.address(path + b"/", "content"))
    if file.kind == BackupFile.LINK:
        return Cell(f"what {shown(file.name)} leads to", wanted.address(path, "content"))
    return Cell(text.NONE)


def _buttons(wanted: Wanted) -> list[Button]:
    """From a list to others, and to its directory as a whole."""
    systems = Button("File systems", replace(wanted, file_system="").address(b""))
    if not wanted.path:
        return [Button("As the guest sees them", replace(wanted, file_system="").address(b"/"))]
    parent = wanted.path.rstrip(b"/").rpartition(b"/")[0] + b"/"
    up = [Button(f"Up to {shown(parent)}", wanted.address(parent))] if wanted.path.rstrip(b"/") else []
    return [*up, systems, Button("Download all of it", wanted.address(wanted.path, "content"))]


def _is_text(path: bytes) -> bool:
    """Whether a field of a form can hold it."""
    try:
        return path.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _in_shell(path: bytes) -> str:
    """The path as one would paste it into a shell."""
    if _is_text(path):
        return shlex.quote(path.decode())
    plain = (chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}" for byte in path)
    return f"$'{''.join(plain)}'"
