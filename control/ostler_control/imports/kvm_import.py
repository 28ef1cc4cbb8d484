"""Imports from another KVM host: an agent copies the disks straight into the volumes; nothing is staged.

A copy that an agent's death interrupts begins anew, at most twice.
"""

from __future__ import annotations

import structlog
from ostler.agent.v1 import remote_kvm_pb2 as pb
from ostler_common.errors import OstlerError

from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address_of
from ostler_control.imports import kvm_source
from ostler_control.imports.record import ImportInputs
from ostler_control.imports.rows import delete_imports
from ostler_control.imports.volumes_made import record_made
from ostler_control.models import ImportDiskPassphrase, ImportSource, VmImport, Volume
from ostler_control.operations import Run, Undo
from ostler_control.vmware.inventory import Disk, Power, SourceVm
from ostler_control.volumes import wire
from ostler_control.volumes.create import delete_file

log = structlog.get_logger(__name__)

# The undo step that ends the copy of a running VM at its source.
END_COPY = "end-remote-copy"
_MAX_COPIES = 3
_COPY = (5, 92)  # share of the whole, percent


def import_kvm(run: Run, undo: Undo, inputs: ImportInputs) -> SourceVm:
    """The part of the workflow `vm.import` that ends with the volumes."""
    assert inputs.kvm is not None
    vm = inputs.kvm.vm
    if vm.power is Power.ON:
        undo.push(END_COPY, lambda: _end_copy(run, inputs))
    for disk in inputs.disks:
        _push_delete(run, undo, inputs, disk.volume_id)
    for attempt in range(_MAX_COPIES):
        try:
            run.step(f"copy-{attempt}", lambda: _copy(run, inputs))
            break
        except OstlerError as error:
            if error.reason != "INTERRUPTED" or attempt + 1 == _MAX_COPIES:
                raise
    run.step("release-source", lambda: _release(run, inputs))
    return vm


def _push_delete(run: Run, undo: Undo, inputs: ImportInputs, volume_id: str) -> None:
    undo.push(f"delete-{volume_id}", lambda: delete_file(run, inputs.conversion_host_id, volume_id))


def _copy(run: Run, inputs: ImportInputs) -> None:
    assert inputs.kvm is not None
    vm = inputs.kvm.vm
    with session():
        source = ImportSource.get_by_id(inputs.source_id)
        volumes = [Volume.get_by_id(disk.volume_id) for disk in inputs.disks]
    request = pb.CopyRemoteDisksRequest(
        operation=run.ref(),
        vm_id=vm.ref,
        copy_id=run.id,
        running=vm.power is Power.ON,
        disks=[
            pb.RemoteDiskCopy(
                target=disk.label,
                images=map(kvm_source.image, disk.images),
                passphrase=_passphrase(run, disk),
                volume=wire.keyed_ref(volume, run.keys, inputs.iter_time_ms),
                size_bytes=volume.size_bytes,
                provisioning=wire.PROVISIONINGS[volume.provisioning],
            )
            for disk, volume in zip(vm.disks, volumes, strict=True)
        ],
        timeout_s=inputs.timeout_s,
    )
    kvm_source.with_server(request, kvm_source.server_of(source, run.keys))
    host = address_of(inputs.conversion_host_id)
    update = run.job(host, lambda agent: agent.remote_kvm.CopyRemoteDisks, request, _COPY)
    keys = {disk.label: str(disk.key) for disk in vm.disks}
    for made in update.conversion_report.disks:
        made.key = keys[made.key]
    record_made(run, inputs, volumes, update.conversion_report)


def _passphrase(run: Run, disk: Disk) -> bytes:
    with session():
        mine = (ImportDiskPassphrase.vm_import == run.id) & (ImportDiskPassphrase.disk_key == disk.key)
        row = ImportDiskPassphrase.get_or_none(mine)
    return run.keys.open(row).reveal() if row is not None else b""


def _release(run: Run, inputs: ImportInputs) -> None:
    """The volumes are here: a source that does not answer now is no reason to fail. Then `sweep` ends the copy."""
    assert inputs.kvm is not None
    if inputs.kvm.vm.power is Power.ON:
        try:
            _end_copy(run, inputs)
        except OstlerError as error:
            log.warning("the source of an import is cleaned up later", operation=run.id, reason=error.reason)
            return
    with transaction():
        delete_imports(VmImport.id == run.id)


def _end_copy(run: Run, inputs: ImportInputs) -> None:
    run.phase("ending the copy at the source", _COPY[1])
    with session():
        source = ImportSource.get_or_none(ImportSource.id == inputs.source_id)
    if source is not None:
        kvm_source.end_copy(source, run.keys, run.agents, inputs.source_ref, run.id, inputs.conversion_host_id)
