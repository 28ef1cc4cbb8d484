"""`ostler volume download`, `ostler volume upload`: volumes as files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import click
from ostler.control.v1 import volume_pb2 as pb
from ostler.types.v1.volume_pb2 import DiskFormat
from ostler_common.errors import InternalError

from ostler_control.cli import passphrases, text, transfers
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.commands._volume_view import VIEW
from ostler_control.cli.finish import finish
from ostler_control.cli.names import ACCOUNT, DISK_OFFERING, POOL, VOLUME
from ostler_control.cli.options import CallOptions, operation_options
from ostler_control.cli.transfers import Receiver


@click.command("download")
@click.argument("name", type=VOLUME)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--snapshot", is_flag=True, help="NAME is the name of a snapshot.")
@passphrases.passphrase_file_option("File with the passphrase to encrypt the download.  [default: prompt]")
@passphrases.decrypt_option
@click.option(
    "--format", "layout", type=click.Choice(["qcow2", "raw"]), default="qcow2", show_default=True, help="File layout."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@pass_app
def download(
    app: App,
    name: str,
    file: Path,
    snapshot: bool,
    passphrase_file: Path | None,
    decrypt: bool,
    layout: str,
    force: bool,
) -> None:
    """Writes the content of volume NAME to FILE.

    A running VM may use the volume: FILE then holds the disk as of one moment.

    The file of an encrypted volume is encrypted under a passphrase that you choose: LUKS-encrypted qcow2 or, as raw, a
    LUKS container. Ostler does not keep the passphrase. --decrypt writes the content in clear; then a clear copy also
    lies in the volume's pool until the download ends.

    \b
    Examples:
      ostler volume download data-1 data-1.qcow2 --passphrase-file passphrase
      ostler volume download data-1 data-1.img --format raw --decrypt
      ostler volume download --snapshot nightly nightly.qcow2
    """
    request = pb.DownloadVolumeRequest(format=DiskFormat.Value(f"DISK_FORMAT_{layout.upper()}"))
    if snapshot:
        request.snapshot = name
    else:
        request.volume = name
    with Receiver(file, force) as receiver:
        encrypted = passphrases.is_encrypted(app.client, request.volume, request.snapshot)
        passphrases.say(request.encryption, passphrase_file, decrypt, encrypted)
        receive(app, request, receiver, name)
    click.echo(f"{file}: {text.size(receiver.size_bytes)}")


def receive(app: App, request: pb.DownloadVolumeRequest, receiver: Receiver, name: str) -> None:
    """Downloads into a file, with progress. name: for people. Raises InternalError DAMAGED, AlreadyExistsError."""
    answers = app.client.volumes.DownloadVolume(request)
    first = pb.DownloadVolumeResponse()
    with transfers.percentage(f"{name}: copying") as show:
        for first in answers:
            if first.data or first.sha256:
                break
            show(first.percent)
    total, last = first.file_size_bytes, first
    with transfers.progress(f"{name}: download", total) as advance:
        receiver.write(first.data)
        advance(len(first.data))
        for last in answers:
            receiver.write(last.data)
            advance(len(last.data))
    if not last.sha256:
        raise InternalError(f"the download of {name} ended too early; try again", "DAMAGED")
    receiver.keep(total, last.sha256)


def _parts(
    header: pb.UploadVolumeRequest.Header, source: BinaryIO, advance: Callable[[int], None]
) -> Iterator[pb.UploadVolumeRequest]:
    yield pb.UploadVolumeRequest(header=header)
    for data in transfers.pieces(source):
        yield pb.UploadVolumeRequest(data=data)
        advance(len(data))


@click.command("upload")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True))
@click.argument("name")
@click.option("--offering", type=DISK_OFFERING, required=True, help="Disk offering; it decides about encryption.")
@passphrases.passphrase_file_option("File with the passphrase of an encrypted FILE.  [default: prompt]")
@click.option(
    "--format", "layout", type=click.Choice(["qcow2", "raw"]), help="File layout.  [default: found in the file]"
)
@click.option("--pool", type=POOL, default="", help="Pool.  [default: chosen]")
@click.option("--account", type=ACCOUNT, default="", help="Owner.  [default: your account]")
@operation_options(dry_run=False)
@pass_app
def upload(
    app: App,
    file: Path,
    name: str,
    offering: str,
    passphrase_file: Path | None,
    layout: str | None,
    pool: str,
    account: str,
    call: CallOptions,
) -> None:
    """Creates volume NAME from FILE.

    FILE is qcow2 without a backing file, or raw; it may be LUKS-encrypted (qcow2, or a LUKS1 container as raw), and
    then needs its passphrase and an offering that encrypts. The volume gets a key of its own: FILE's passphrase is
    destroyed when it is made. A failed upload or a wrong passphrase leaves nothing behind.

    \b
    Examples:
      ostler volume upload data.qcow2 data-1 --offering secret --passphrase-file passphrase
      ostler volume upload disk.img data-2 --offering plain
    """
    with file.open("rb") as source:
        size_bytes = os.fstat(source.fileno()).st_size
        found, encrypted = transfers.detect_format(source)
        passphrase = passphrases.ask(passphrase_file, encrypted)
        with transfers.progress(f"{name}: digest", size_bytes) as advance:
            digest = transfers.digest(source, advance)
        header = pb.UploadVolumeRequest.Header(
            request_id=call.request_id,
            name=name,
            disk_offering=offering,
            pool=pool,
            account=account,
            format=DiskFormat.Value(f"DISK_FORMAT_{(layout or found).upper()}"),
            passphrase=passphrase.reveal() if passphrase else b"",
            file_size_bytes=size_bytes,
            sha256=digest,
        )
        with transfers.progress(f"{name}: upload", size_bytes) as advance:
            operation = app.client.volumes.UploadVolume(_parts(header, source, advance))
    finish(app, operation, VIEW, pb.Volume(), call)
