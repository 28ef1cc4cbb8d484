"""`ostler volume rekey`, `encrypt`, `migrate`, `change-offering`: another key, another file, another pool."""

from __future__ import annotations

import click
from ostler.control.v1 import volume_pb2 as pb

from ostler_control.cli.app import App, pass_app
from ostler_control.cli.commands._volume_view import VIEW
from ostler_control.cli.finish import finish
from ostler_control.cli.names import DISK_OFFERING, POOL, VOLUME
from ostler_control.cli.options import CallOptions, dry_run_option, operation_options, output_option
from ostler_control.cli.output import print_changed


@click.command("rekey")
@click.argument("volume", type=VOLUME)
@click.option("--deep", is_flag=True, help="Write everything anew under another master key.")
@operation_options()
@pass_app
def rekey(app: App, volume: str, deep: bool, call: CallOptions) -> None:
    """Gives an encrypted volume another passphrase.

    Without --deep only the header changes, in seconds, and the volume's VM must be stopped. The old passphrase no
    longer opens the volume. But the data is still under the same master key: whoever has the old passphrase and a
    copy of the header from before (of a backup, a stolen disk, a storage snapshot) can still read the volume, also
    what is written to it later.

    With --deep everything is written anew, under another master key, into a new file, also while the VM runs and
    without its noticing; then the old file and its key are destroyed. That takes as long as copying the volume, and
    as much room until it is done. It protects what is in the volume now and later; nothing protects what somebody
    has copied, together with its key, before.

    \b
    Examples:
      ostler volume rekey data-1
      ostler volume rekey data-1 --deep
    """
    request = pb.RekeyVolumeRequest(request_id=call.request_id, volume=volume, deep=deep, validate_only=call.dry_run)
    finish(app, app.client.volumes.RekeyVolume(request), VIEW, pb.Volume(), call)


@click.command("encrypt")
@click.argument("volume", type=VOLUME)
@operation_options()
@pass_app
def encrypt(app: App, volume: str, call: CallOptions) -> None:
    """Encrypts a plain volume, also while its VM runs.

    Everything is written into a new, encrypted file; then the plain one is deleted. Deleting is not wiping: what
    was in it may be found on the pool's disks until they are written over.

    \b
    Example:
      ostler volume encrypt data-1
    """
    request = pb.EncryptVolumeRequest(request_id=call.request_id, volume=volume, validate_only=call.dry_run)
    finish(app, app.client.volumes.EncryptVolume(request), VIEW, pb.Volume(), call)


@click.command("migrate")
@click.argument("volume", type=VOLUME)
@click.argument("pool", type=POOL)
@click.option("--keep-key", is_flag=True, help="Keep the passphrase.  [default: the new file gets one of its own]")
@operation_options()
@pass_app
def migrate(app: App, volume: str, pool: str, keep_key: bool, call: CallOptions) -> None:
    """Moves a volume to another POOL, also while its VM runs.

    A running VM's host must reach both pools; for a stopped VM's volume any one host that reaches both will do. The
    new file of an encrypted volume always has another master key.

    \b
    Example:
      ostler volume migrate data-1 fast
    """
    request = pb.MigrateVolumeRequest(
        request_id=call.request_id, volume=volume, pool=pool, keep_key=keep_key, validate_only=call.dry_run
    )
    finish(app, app.client.volumes.MigrateVolume(request), VIEW, pb.Volume(), call)


@click.command("change-offering")
@click.argument("volume", type=VOLUME)
@click.argument("offering", type=DISK_OFFERING)
@dry_run_option
@output_option
@pass_app
def change_offering(app: App, volume: str, offering: str, dry_run: bool, output: str) -> None:
    """Gives a data volume another disk offering.

    OFFERING must be of the volume's encryption and layout, and of its size if it has one.
    What the volume is does not change: encrypt it, grow it or migrate it first.

    \b
    Example:
      ostler volume change-offering data-1 secret
    """
    request = pb.ChangeVolumeOfferingRequest(volume=volume, disk_offering=offering, validate_only=dry_run)
    print_changed(VIEW, app.client.volumes.ChangeVolumeOffering(request), output)
