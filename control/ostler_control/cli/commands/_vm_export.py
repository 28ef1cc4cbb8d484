"""`ostler vm export`: a VM as an OVA archive."""

from __future__ import annotations

import os
from pathlib import Path

import click
from ostler.control.v1 import vm_pb2, volume_pb2
from ostler.types.v1 import vm_pb2 as types
from ostler.types.v1.volume_pb2 import DISK_FORMAT_QCOW2
from ostler_common.errors import AlreadyExistsError, FailedPreconditionError
from ostler_common.ovf_writer import Disk, Machine

from ostler_control.cli import passphrases, text
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.commands._volume_files import receive
from ostler_control.cli.names import VM
from ostler_control.cli.ova_file import OvaFile
from ostler_control.cli.transfers import Receiver, create_private


@click.command("export")
@click.argument("vm", type=VM)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@passphrases.decrypt_option
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@pass_app
def export(app: App, vm: str, file: Path, decrypt: bool, force: bool) -> None:
    """Writes a VM into FILE, an OVA archive.

    Other virtualization products import it. The archive has all disks, as stream-optimized VMDK, and a descriptor with
    CPUs, memory, firmware and networks. It is not encrypted: a VM with an encrypted disk needs --decrypt. VM may run if
    it has one disk. Each disk needs room for a second copy beside FILE until it is in the archive.

    \b
    Example:
      ostler vm export web-1 web-1.ova
    """
    if file.exists() and not force:
        raise AlreadyExistsError(f"{file} already exists; --force overwrites it", "FILE_EXISTS")
    found = app.client.vms.GetVm(vm_pb2.GetVmRequest(vm=vm))
    _check(found, decrypt)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with create_private(part) as out:
            archive = OvaFile(out, _machine(found))
            for disk in found.volumes:
                _add(app, archive, disk, part.with_suffix(".disk"), decrypt)
            archive.finish()
            out.flush()
            os.fsync(out.fileno())
            size_bytes = os.fstat(out.fileno()).st_size
        _check_unchanged(app, found)
        if force:
            os.replace(part, file)
        else:
            os.link(part, file)  # never over a file that came meanwhile
    finally:
        part.unlink(missing_ok=True)
    click.echo(f"{file}: {text.size(size_bytes)}")


def _check(vm: vm_pb2.Vm, decrypt: bool) -> None:
    encrypted = any(disk.encrypted for disk in vm.volumes)
    if encrypted and not decrypt:
        raise click.UsageError(
            f"VM {vm.name} has an encrypted disk, and an OVA archive is in clear: --decrypt lets its content leave so"
        )
    if vm.state == vm_pb2.Vm.STOPPED or (vm.state == vm_pb2.Vm.RUNNING and len(vm.volumes) == 1):
        return
    raise FailedPreconditionError(
        f"VM {vm.name} has {len(vm.volumes)} disks, which are read one after the other; stop it first "
        f"(ostler vm stop {vm.name})",
        "EXPORT_NEEDS_STOP",
    )


def _machine(vm: vm_pb2.Vm) -> Machine:
    return Machine(
        name=vm.name,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        uefi=vm.firmware in (types.FIRMWARE_UEFI, types.FIRMWARE_UEFI_SECURE_BOOT),
        disks=[Disk(f"{vm.name}-disk{n}.vmdk", disk.size_bytes, 0) for n, disk in enumerate(vm.volumes, 1)],
        networks=[nic.network for nic in vm.nics],
    )


def _add(app: App, archive: OvaFile, disk: vm_pb2.VmVolume, image: Path, decrypt: bool) -> None:
    request = volume_pb2.DownloadVolumeRequest(volume=disk.volume_id, format=DISK_FORMAT_QCOW2)
    if disk.encrypted and decrypt:
        request.encryption.decrypt = True
    try:
        with Receiver(image, force=True) as receiver:
            receive(app, request, receiver, disk.volume_name)
        with image.open("rb") as source:
            archive.add_disk(source)
    finally:
        image.unlink(missing_ok=True)


def _check_unchanged(app: App, vm: vm_pb2.Vm) -> None:
    """A stopped VM that has started meanwhile may have written to a disk between the copies of two."""
    now = app.client.vms.GetVm(vm_pb2.GetVmRequest(vm=vm.id))
    if vm.state == vm_pb2.Vm.STOPPED and (now.state, now.state_time) != (vm.state, vm.state_time):
        raise FailedPreconditionError(
            f"VM {vm.name} was started during the export, which is not kept; export it again", "CHANGED_MEANWHILE"
        )
