"""`ostler backup file`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
from ostler.control.v1 import backup_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.backup_files import FILE_SYSTEMS, FILES, MORE, answers
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import BACKUP
from ostler_control.cli.options import list_options
from ostler_control.cli.output import Listing, print_list
from ostler_control.cli.transfers import Receiver

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
    found = list(_read(app, request))
    if not path:
        print_list(FILE_SYSTEMS, [one for answer in found for one in answer.file_systems], listing)
        return
    print_list(FILES, [one for answer in found for one in answer.files], listing)
    if any(answer.more for answer in found):
        click.echo(MORE, err=True)


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
        for last in _read(app, request):
            archive = archive or last.archive
            receiver.write(last.data)
        receiver.keep(receiver.size_bytes, last.sha256)
    click.echo(f"{file}: {text.size(receiver.size_bytes, '0 B')}{', a tar archive' if archive else ''}")


def _read(app: App, request: pb.ReadBackupFilesRequest) -> Iterator[pb.ReadBackupFilesResponse]:
    """All answers; says what is done."""

    def tell(phase: str) -> None:
        click.echo(f"{request.backup}: {phase}", err=True)

    return answers(app.client.backups.ReadBackupFiles(request), request.backup, tell)
