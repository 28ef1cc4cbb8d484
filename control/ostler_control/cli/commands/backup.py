"""`ostler backup`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from ostler.control.v1 import backup_pb2 as pb
from ostler.control.v1 import vm_pb2, volume_pb2

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.commands._backup_file import file
from ostler_control.cli.commands._backup_schedule import schedule
from ostler_control.cli.commands._backup_store import store as store_group
from ostler_control.cli.commands._vm_view import VIEW as VM_VIEW
from ostler_control.cli.commands._volume_view import VIEW as VOLUME_VIEW
from ostler_control.cli.consistency import consistency
from ostler_control.cli.finish import finish
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, BACKUP, BACKUP_STORE, POOL, SERVICE_OFFERING, VM
from ostler_control.cli.options import (
    CallOptions,
    confirm,
    confirm_name,
    limit_option,
    list_options,
    operation_options,
    output_option,
    yes_option,
)
from ostler_control.cli.output import Listing, Section, View, print_list, print_one


def _verified(backup: pb.Backup) -> str:
    if not backup.HasField("verify_time"):
        return "never"
    return "damaged" if backup.verify_error else text.when(backup, "verify_time")


def _booted(backup: pb.Backup) -> str:
    if not backup.HasField("boot_time"):
        return "never"
    when = text.when(backup, "boot_time")
    return f"no, {when}: {backup.boot_error}" if backup.boot_error else f"{when}, by its {backup.boot_sign}"


def _firmware_state(backup: pb.Backup) -> str:
    when = text.when(backup, "firmware_state_time")
    return f"{when}: {backup.firmware_state_problem}" if backup.firmware_state_problem else when


def _copied(disk: pb.BackupDisk) -> str:
    if disk.parent_backup_name:
        return f"since {disk.parent_backup_name}"
    return f"all ({disk.full_reason})" if disk.full_reason else "all"


def _disks(backup: pb.Backup) -> Sequence[Sequence[str]]:
    return [
        ("slot", "volume", "size", "encrypted", "stored", "copied"),
        *(
            (
                str(d.slot),
                d.volume_name,
                text.size(d.size_bytes),
                text.yes(d.encrypted),
                text.size(d.file_size_bytes),
                _copied(d),
            )
            for d in backup.disks
        ),
    ]


VIEW = View[pb.Backup](
    "backup",
    columns=[
        ("name", lambda b: b.name),
        ("state", lambda b: text.enum_of(b, "state")),
        ("VM", lambda b: b.vm_name),
        ("disks", lambda b: str(len(b.disks))),
        ("stored", lambda b: text.size(b.stored_bytes)),
        ("store", lambda b: b.store_name),
        ("taken", lambda b: text.when(b, "create_time")),
        ("verified", _verified),
    ],
    details=[
        ("reason", lambda b: b.state_reason),
        ("account", lambda b: b.account_name),
        ("VM ran", lambda b: text.yes(b.online)),
        ("consistency", consistency),
        ("damage", lambda b: b.verify_error),
        ("booted", _booted),
        ("firmware state", _firmware_state),
        ("VM id", lambda b: b.vm_id),
        ("labels", lambda b: labels_joined(b.labels)),
        ("id", lambda b: b.id),
    ],
    sections=[Section("Disks", _disks)],
)


@click.group(cls=Noun)
def command() -> None:
    """Backups of VMs: create, verify, restore, schedule."""


@command.command("create")
@click.argument("vm", type=VM)
@click.option("--name", default="", help="Name.  [default: the VM's and the time, UTC]")
@click.option(
    "--store",
    type=BACKUP_STORE,
    default="",
    help="Store to hold it.  [default: the one with the most room; a bucket only if hosts reach no other]",
)
@click.option("--full", is_flag=True, help="Copy everything, not only what was written since the last backup.")
@operation_options()
@pass_app
def create(app: App, vm: str, name: str, store: str, full: bool, call: CallOptions) -> None:
    """Backs up all disks of a VM as of one moment, even while it runs.

    Of a disk that was backed up before, only what was written since is copied, where that is known.

    The files in the store are encrypted, each under a key of its own, also those of plain volumes. The VM is busy until
    its disks are copied; the guest goes on meanwhile.

    \b
    Example:
      ostler backup create web-1 --name before-upgrade
    """
    request = pb.CreateBackupRequest(
        request_id=call.request_id, vm=vm, name=name, store=store, full=full, validate_only=call.dry_run
    )
    finish(app, app.client.backups.CreateBackup(request), VIEW, pb.Backup(), call)


@command.command("list")
@click.option("--vm", type=VM, default="", help="Only those of this VM; for a deleted VM, its id.")
@click.option("--account", type=ACCOUNT, default="", help="Only those of this account.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, vm: str, account: str, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists backups, newest first.

    \b
    Example:
      ostler backup list --vm web-1
    """
    request = pb.ListBackupsRequest(vm=vm, account=account, selector=selector)
    print_list(VIEW, pages(app.client.backups.ListBackups, request, lambda a: a.backups, limit), listing)


@command.command("show")
@click.argument("backup", type=BACKUP)
@output_option
@pass_app
def show(app: App, backup: str, output: str) -> None:
    """Shows one backup and its disks.

    \b
    Example:
      ostler backup show before-upgrade
    """
    print_one(VIEW, app.client.backups.GetBackup(pb.GetBackupRequest(backup=backup)), output)


@command.command("verify")
@click.argument("backup", type=BACKUP)
@click.option("--boot", is_flag=True, help="Boot a VM from it instead, without network, and delete that.")
@click.option(
    "--timeout", "timeout_s", type=click.IntRange(1, 3600), help="With --boot: seconds for it.  [default: 300]"
)
@click.option("--console-text", default="", help='With --boot: what the console shows in the end.  [default: "login:"]')
@operation_options()
@pass_app
def verify(app: App, backup: str, boot: bool, timeout_s: int | None, console_text: str, call: CallOptions) -> None:
    """Verifies that a backup is what was written, or that it boots.

    A host opens every file with its key, reads it whole and compares its SHA-256.
    Fails with BACKUP_DAMAGED when a file is missing or is not the one that was written.

    With --boot: waits until the guest agent answers or the console shows the text; else
    fails with BACKUP_DOES_NOT_BOOT.

    \b
    Examples:
      ostler backup verify before-upgrade
      ostler backup verify before-upgrade --boot --timeout 600
    """
    if (timeout_s or console_text) and not boot:
        raise click.UsageError("--timeout and --console-text are for --boot")
    request = pb.VerifyBackupRequest(
        request_id=call.request_id,
        backup=backup,
        validate_only=call.dry_run,
        boot=boot,
        boot_timeout_s=timeout_s or 0,
        console_text=console_text,
    )
    finish(app, app.client.backups.VerifyBackup(request), VIEW, pb.Backup(), call)


@command.command("restore")
@click.argument("backup", type=BACKUP)
@click.option("--name", default="", help="Restore to a new VM (with --disk: a new volume) of this name.")
@click.option("--over", is_flag=True, help="Restore over the VM that was backed up, which must be stopped.")
@click.option("--disk", "slot", type=click.IntRange(0), default=None, help="Only the disk of this slot.")
@click.option("--offering", type=SERVICE_OFFERING, default="", help="Service offering.  [default: the VM's]")
@click.option("--pool", type=POOL, default="", help="Pool for the disks.  [default: their own, or one that fits]")
@click.option("--keep-macs", is_flag=True, help="With the MAC addresses of the backup, which must be free.")
@click.option("--without-nics", is_flag=True, help="Without network interfaces.")
@yes_option
@operation_options()
@pass_app
def restore(
    app: App,
    backup: str,
    name: str,
    over: bool,
    slot: int | None,
    offering: str,
    pool: str,
    keep_macs: bool,
    without_nics: bool,
    yes: bool,
    call: CallOptions,
) -> None:
    """Restores a backup to a new VM or over the old one.

    With --disk: one disk of it to a new volume.

    A new VM is stopped; it has new keys and, unless --keep-macs, new MAC addresses. Every disk is encrypted if it was.
    With --over everything written since is lost, all disks go back together, and disks that are not in the backup stay
    as they are.

    \b
    Examples:
      ostler backup restore before-upgrade --name web-1-again
      ostler backup restore before-upgrade --over
      ostler backup restore before-upgrade --disk 1 --name data-again
    """
    if over == bool(name):
        raise click.UsageError("give --name for a new VM or volume, or --over")
    if (over or slot is not None) and (offering or keep_macs or without_nics):
        raise click.UsageError("--offering, --keep-macs and --without-nics are for a new VM")
    if over and (pool or slot is not None):
        raise click.UsageError("--over restores all disks, each in its own pool: leave out --pool and --disk")
    if over:
        _restore_over(app, backup, yes, call)
    elif slot is not None:
        of_disk = pb.RestoreVolumeRequest(
            request_id=call.request_id, backup=backup, slot=slot, name=name, pool=pool, validate_only=call.dry_run
        )
        finish(app, app.client.backups.RestoreVolume(of_disk), VOLUME_VIEW, volume_pb2.Volume(), call)
    else:
        request = pb.RestoreVmRequest(
            request_id=call.request_id,
            backup=backup,
            name=name,
            service_offering=offering,
            pool=pool,
            keep_macs=keep_macs,
            without_nics=without_nics,
            validate_only=call.dry_run,
        )
        finish(app, app.client.backups.RestoreVm(request), VM_VIEW, vm_pb2.Vm(), call)


def _restore_over(app: App, backup: str, yes: bool, call: CallOptions) -> None:
    """The VM's name must be typed: the backup may be of another VM than its user thinks."""
    if not call.dry_run and not yes:
        vm_name = app.client.backups.GetBackup(pb.GetBackupRequest(backup=backup)).vm_name
        question = f"Everything written to VM {vm_name} since backup {backup} will be lost. Type the VM's name"
        confirm_name(question, vm_name)
    request = pb.RestoreVmOverRequest(request_id=call.request_id, backup=backup, validate_only=call.dry_run)
    finish(app, app.client.backups.RestoreVmOver(request), VM_VIEW, vm_pb2.Vm(), call)


@command.command("delete")
@click.argument("backup", type=BACKUP)
@yes_option
@operation_options()
@pass_app
def delete(app: App, backup: str, yes: bool, call: CallOptions) -> None:
    """Deletes a backup with its keys. The VM is not changed.

    \b
    Example:
      ostler backup delete before-upgrade --yes
    """
    if not call.dry_run:
        confirm(f"Delete backup {backup} and everything in it?", yes)
    request = pb.DeleteBackupRequest(request_id=call.request_id, backup=backup, validate_only=call.dry_run)
    finish(app, app.client.backups.DeleteBackup(request), VIEW, pb.Backup(), call, gone=True)


command.add_command(file)
command.add_command(schedule)
command.add_command(store_group)
command.add_command(label_command("backup"))
