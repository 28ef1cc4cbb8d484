"""`ostler backup file`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import click
from ostler.control.v1 import backup_pb2 as pb
from ostler.types.v1.backup_file_pb2 import BackupFile, BackupFileSystem
from ostler_common.errors import InternalError

from ostler_control.cli import text
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import BACKUP
from ostler_control.cli.options import list_options
from ostler_control.cli.output import Listing, View, print_list
from ostler_control.cli.transfers import Receiver

_TYPES = {BackupFile.DIRECTORY: stat.S_IFDIR, BackupFile.LINK: stat.S_IFLNK, BackupFile.FILE: stat.S_IFREG}


def _name(file: BackupFile) -> str:
    """As the guest wrote it; bytes that are no UTF-8 as escapes. Output escapes the rest."""
    return file.name.decode(errors="backslashreplace")


def _mode(file: BackupFile) -> str:
    return stat.filemode(_TYPES.get(file.kind, stat.S_IFIFO) | file.permissions)


def _plain_file(file: BackupFile) -> object:
    return {
        "name": _name(file),
        "kind": BackupFile.Kind.Name(file.kind),
        "size_bytes": file.size_bytes,
        "modify_time": file.modify_time.ToJsonString(),
        "permissions": f"{file.permissions:04o}",
    }


FILES = View[BackupFile](
    "file",
    columns=[
        ("mode", _mode),
        ("size", lambda f: text.size(f.size_bytes) if f.kind == BackupFile.FILE else text.NONE),
        ("changed", lambda f: text.when(f, "modify_time")),
        ("name", lambda f: _name(f) + ("/" if f.kind == BackupFile.DIRECTORY else "")),
    ],
    name=_name,
    plain=_plain_file,
)
FILE_SYSTEMS = View[BackupFileSystem](
    "file system",
    columns=[
        ("file system", lambda s: s.name),
        ("type", lambda s: s.type),
        ("size", lambda s: text.size(s.size_bytes)),
        ("label", lambda s: s.label),
    ],
)
_filesystem_option = click.option(
    "--filesystem", default="", metavar="NAME", help="File system of PATH.  [default: as the guest mounts them]"
)


@click.group("file", cls=Noun)
def file() -> None:
    """Files in backups: list them, download one."""


@file.command("list")
@click.argument("backup", type=BACKUP)
@click.argument("path", default="")
@_filesystem_option
@list_options
@pass_app
def list_(app: App, backup: str, path: str, filesystem: str, listing: Listing) -> None:
    """Lists the files of a directory, or the file systems.

    Without PATH, the file systems of all disks.

    A host opens the disks read-only and reads them in a small VM of its own, which takes
    a minute. PATH is as the guest sees it; if its operating system is not recognized,
    choose the file system (--filesystem).

    \b
    Examples:
      ostler backup file list before-upgrade
      ostler backup file list before-upgrade /etc
      ostler backup file list before-upgrade /log --filesystem /dev/sdb1
    """
    request = pb.ReadBackupFilesRequest(backup=backup, path=os.fsencode(path), file_system=filesystem)
    answers = list(_answers(app, request))
    if not path:
        print_list(FILE_SYSTEMS, [found for answer in answers for found in answer.file_systems], listing)
        return
    print_list(FILES, [found for answer in answers for found in answer.files], listing)
    if any(answer.more for answer in answers):
        click.echo("the directory has more files than are listed; download it to see them all", err=True)


@file.command("download")
@click.argument("backup", type=BACKUP)
@click.argument("path")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_filesystem_option
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@pass_app
def download(app: App, backup: str, path: str, file: Path, filesystem: str, force: bool) -> None:
    """Writes a file of a backup to FILE; a directory as tar.

    FILE is in clear, and only you can read it. The names in an archive are the guest's:
    extract it in an empty directory, and not as root.

    \b
    Examples:
      ostler backup file download before-upgrade /etc/fstab fstab
      ostler backup file download before-upgrade /home/ann ann.tar
    """
    request = pb.ReadBackupFilesRequest(backup=backup, path=os.fsencode(path), file_system=filesystem, content=True)
    archive, last = False, pb.ReadBackupFilesResponse()
    with Receiver(file, force) as receiver:
        for last in _answers(app, request):
            archive = archive or last.archive
            receiver.write(last.data)
        receiver.keep(receiver.size_bytes, last.sha256)
    click.echo(f"{file}: {text.size(receiver.size_bytes, '0 B')}{', a tar archive' if archive else ''}")


def _answers(app: App, request: pb.ReadBackupFilesRequest) -> Iterator[pb.ReadBackupFilesResponse]:
    """All answers; says what is done. Raises InternalError DAMAGED if they end too early."""
    phase, complete = "", False
    for answer in app.client.backups.ReadBackupFiles(request):
        if answer.phase and answer.phase != phase:
            phase = answer.phase
            click.echo(f"{request.backup}: {phase}", err=True)
        complete = answer.complete
        yield answer
    if not complete:
        raise InternalError(f"reading backup {request.backup} ended too early; try again", "DAMAGED")
