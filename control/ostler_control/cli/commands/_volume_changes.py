"""`ostler volume rekey`, `encrypt`, `migrate`, `limit`, `change-offering`: another key, file, pool, speed."""

from __future__ import annotations

import click
from ostler.control.v1 import volume_pb2 as pb
from ostler.types.v1 import volume_pb2 as types

from ostler_control.cli.app import App, pass_app
from ostler_control.cli.commands._volume_view import VIEW
from ostler_control.cli.finish import finish
from ostler_control.cli.io_limits import limit_options, message
from ostler_control.cli.names import DISK_OFFERING, POOL, VOLUME
from ostler_control.cli.options import CallOptions, dry_run_option, operation_options, output_option
from ostler_control.cli.output import print_changed


@click.command("rekey")
@click.argument("volume", type=VOLUME)
@click.option("--deep", is_flag=True, help="Rewrite the volume under a new master key.")
@operation_options()
@pass_app
def rekey(app: App, volume: str, deep: bool, call: CallOptions) -> None:
    """Changes the passphrase of an encrypted volume.

    Without --deep only the header changes, within seconds, and the volume's VM must be stopped. The old passphrase no
    longer opens the volume, but the master key stays the same: anyone with the old passphrase and an old copy of the
    header (from a backup, a stolen disk or a storage snapshot) can still read the volume, including later writes.

    With --deep the whole volume is rewritten under a new master key into a new file, even while the VM runs; then the
    old file and its key are destroyed. This takes the time and the space of a copy of the volume. It protects present
    and future content; it cannot protect content that was copied together with its key before.

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
    """Encrypts an unencrypted volume, even while its VM runs.

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
@click.option("--keep-key", is_flag=True, help="Keep the passphrase.  [default: create a new one]")
@operation_options()
@pass_app
def migrate(app: App, volume: str, pool: str, keep_key: bool, call: CallOptions) -> None:
    """Migrates a volume to another POOL, even while its VM runs.

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


@click.command("limit")
@click.argument("volume", type=VOLUME)
@limit_options
@click.option("--unlimited", is_flag=True, help="No limits, whatever the disk offering says.")
@click.option("--as-offering", is_flag=True, help="The limits of the disk offering again.")
@operation_options()
@pass_app
def limit(
    app: App, /, volume: str, unlimited: bool, as_offering: bool, call: CallOptions, **limits: int | None
) -> None:
    """Limits the I/O of a volume, also while its VM runs. Admins only.

    The limits count reads and writes together and replace those that the volume has. They stay through restarts and
    migrations.

    \b
    Examples:
      ostler volume limit data-1 --iops 500 --bandwidth 50MiB
      ostler volume limit data-1 --iops 500 --burst-iops 2000 --burst-time 30s
      ostler volume limit data-1 --as-offering
    """
    wanted = message(**limits)
    if (wanted is not None) + unlimited + as_offering != 1:
        raise click.UsageError("give limits, or --unlimited, or --as-offering")
    if unlimited:
        wanted = types.IoLimits()
    request = pb.LimitVolumeRequest(
        request_id=call.request_id, volume=volume, limits=wanted, validate_only=call.dry_run
    )
    finish(app, app.client.volumes.LimitVolume(request), VIEW, pb.Volume(), call)


@click.command("change-offering")
@click.argument("volume", type=VOLUME)
@click.argument("offering", type=DISK_OFFERING)
@dry_run_option
@output_option
@pass_app
def change_offering(app: App, volume: str, offering: str, dry_run: bool, output: str) -> None:
    """Changes the disk offering of a data volume.

    OFFERING must be of the volume's encryption and layout, and of its size if it has one.
    What the volume is does not change: encrypt it, grow it or migrate it first. The I/O limits of the new offering
    hold from the VM's next start on; `ostler volume limit VOLUME --as-offering` applies them at once.

    \b
    Example:
      ostler volume change-offering data-1 secret
    """
    request = pb.ChangeVolumeOfferingRequest(volume=volume, disk_offering=offering, validate_only=dry_run)
    print_changed(VIEW, app.client.volumes.ChangeVolumeOffering(request), output)
