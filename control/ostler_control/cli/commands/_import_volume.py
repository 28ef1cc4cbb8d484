"""`ostler import volume`."""

from __future__ import annotations

from pathlib import Path

import click
from ostler.control.v1 import import_pb2 as pb
from ostler.control.v1 import volume_pb2

from ostler_control.cli import passphrases
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.commands._volume_view import VIEW
from ostler_control.cli.finish import finish
from ostler_control.cli.names import ACCOUNT, DISK_OFFERING, POOL
from ostler_control.cli.options import CallOptions, operation_options


@click.command("volume")
@click.argument("pool", type=POOL)
@click.argument("file_name", metavar="FILE")
@click.argument("name")
@click.option(
    "--format", "layout", type=click.Choice(["qcow2", "raw"]), default="qcow2", show_default=True, help="File layout."
)
@click.option("--offering", type=DISK_OFFERING, default="", help="Disk offering, which must suit the file.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File with the passphrase of an encrypted FILE; - is standard input.  [default: FILE is not encrypted]",
)
@click.option("--account", type=ACCOUNT, default="", help="Owner.  [default: your account]")
@operation_options()
@pass_app
def volume_command(
    app: App,
    pool: str,
    file_name: str,
    name: str,
    layout: str,
    offering: str,
    passphrase_file: Path | None,
    account: str,
    call: CallOptions,
) -> None:
    """Makes a volume of an image that lies on a pool.

    FILE is its name in the directory of POOL; the volume is called NAME. The file is renamed and not copied; its
    content stays as it is. Refused: a file that a VM has open, one that belongs to a volume already, a link, an image
    with a backing file or of another format. If it fails, the file gets its name back. Volumes are deleted with their
    files, adopted ones too.

    \b
    Examples:
      ostler import volume nfs1 old-data.qcow2 data-1
      ostler import volume nfs1 secret.img data-2 --format raw --passphrase-file passphrase
    """
    request = pb.ImportVolumeRequest(
        request_id=call.request_id,
        pool=pool,
        file_name=file_name,
        name=name,
        account=account,
        format=layout,
        disk_offering=offering,
        passphrase=passphrases.read(passphrase_file).reveal() if passphrase_file else b"",
        validate_only=call.dry_run,
    )
    finish(app, app.client.imports.ImportVolume(request), VIEW, volume_pb2.Volume(), call)
