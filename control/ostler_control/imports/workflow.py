"""The operation `vm.import`: shut down or clone, export into the staging directory, convert, start; and its undoing.

Everything at the source and on hosts is named by the operation's id, so that it is found again after a crash. What an
attempt left is gone on with: the clone, the staged files that are whole, the conversion job.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog
from ostler.agent.v1 import conversion_pb2 as pb
from ostler.agent.v1 import vm_pb2
from ostler_common.errors import AbortedError, FailedPreconditionError

from ostler_control import events
from ostler_control.agents import power_states
from ostler_control.catalog.firmware import FIRMWARES
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address_of
from ostler_control.imports import kvm_import, receive, warm
from ostler_control.imports.agent_sink import AgentSink
from ostler_control.imports.host_export import export_by_host
from ostler_control.imports.receive import StagedDisk
from ostler_control.imports.record import ImportedFiles, ImportInputs
from ostler_control.imports.rows import delete_imports
from ostler_control.imports.staging import needed_bytes
from ostler_control.imports.volumes_made import record_made
from ostler_control.imports.warm_source import connected
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import (
    Operation,
    PowerState,
    Vm,
    VmImport,
    VmOrigin,
    VmState,
    Volume,
    VolumeState,
    now,
)
from ostler_control.operations import Run, Undo, workflow
from ostler_control.operations.inputs import from_json, to_json
from ostler_control.scheduling import capacity
from ostler_control.vms import firmware_states, tpm
from ostler_control.vms import wire as vm_wire
from ostler_control.vms.on_host import FORCE_OFF, UNDEFINE, force_off, push_undo_of_start, start_job, start_on
from ostler_control.vms.rows import load, set_state
from ostler_control.vmware.clone import clone, delete_clones
from ostler_control.vmware.export import Exporter, stream_count
from ostler_control.vmware.inventory import Power, SourceVm
from ostler_control.vmware.power import shut_down
from ostler_control.vmware.read_inventory import read_vm
from ostler_control.volumes import wire
from ostler_control.volumes.create import delete_file

log = structlog.get_logger(__name__)

TEST_BOOT_S = 60.0
_CALL_S, _TICK_S = 60.0, 2.0
# Steps of the undoing.
_DELETE_CLONE, _UNSTAGE = "delete-clone", "unstage"
# Shares of the whole, percent.
_EXPORT, _CONVERT, _START = (5, 50), (50, 92), (92, 100)


@workflow("vm.import")
def _import(run: Run) -> None:
    inputs = run.read(ImportInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo, inputs))
        vm = _import_disks(run, undo, inputs)
        if inputs.test_boot:
            push_undo_of_start(run, undo, inputs.host_id)
            run.step("test-boot", lambda: _test_boot(run, inputs.host_id))
            run.step("power-off", lambda: force_off(run, inputs.host_id))
        if inputs.stopped:
            run.step("stopped", lambda: _leave_stopped(run))
        else:
            push_undo_of_start(run, undo, inputs.host_id)
            kept: bool = run.step("start", lambda: start_on(run, inputs.host_id, _START))
        undo.clear()
        if not inputs.stopped:
            firmware_states.keep_step(run, inputs.host_id, kept)
        if inputs.warm is not None:
            warm.finish(run, inputs)
        run.always("report", lambda: _report(run, vm))


def _import_disks(run: Run, undo: Undo, inputs: ImportInputs) -> SourceVm:
    """The volumes are made when this ends."""
    if inputs.warm is not None:
        return warm.import_warm(run, undo, inputs)
    if inputs.kvm is not None:
        return kvm_import.import_kvm(run, undo, inputs)
    return _import_cold(run, undo, inputs)


def _import_cold(run: Run, undo: Undo, inputs: ImportInputs) -> SourceVm:
    """By way of a staging directory."""
    undo.push(_UNSTAGE, lambda: _delete_staging(run, inputs))
    if inputs.files is not None:
        vm, staged = inputs.files.vm, _receive(run, inputs, inputs.files)
    else:
        vm, staged = _export_from_source(run, undo, inputs)
    for disk in inputs.disks:
        _push_delete(run, undo, inputs, disk.volume_id)
    run.step("convert", lambda: _convert(run, inputs, staged))
    run.step("unstage-done", lambda: _finish_staging(run, inputs))
    return vm


def _export_from_source(run: Run, undo: Undo, inputs: ImportInputs) -> tuple[SourceVm, dict[str, StagedDisk]]:
    if inputs.shutdown:
        run.step("shut-down", lambda: _shut_down(run, inputs))
    vm = from_json(SourceVm, run.step("inspect", lambda: _inspect(run, inputs)))
    ref = vm.ref
    if vm.power is Power.ON:
        undo.push(_DELETE_CLONE, lambda: _delete_clone(run, inputs))
        ref = run.step("clone", lambda: _clone(run, inputs, vm))
    run.step("stage", lambda: _create_staging(run, inputs, vm))
    names: dict[str, str] = run.step("export", lambda: _export(run, inputs, vm, ref))
    if vm.power is Power.ON:
        run.step("drop-clone", lambda: _delete_clone(run, inputs))
    return vm, {key: StagedDisk(name, pb.SOURCE_FORMAT_VMDK) for key, name in names.items()}


def _receive(run: Run, inputs: ImportInputs, files: ImportedFiles) -> dict[str, StagedDisk]:
    run.step("stage", lambda: _create_staging(run, inputs, files.vm))
    if files.url:
        run.step("download", lambda: receive.download(run, inputs, files))
    else:
        run.step("receive", lambda: receive.receive(run, inputs, files))
    found: dict[str, tuple[str, int, str]] = run.step("inspect-files", lambda: receive.inspect(run, inputs, files))
    return {key: StagedDisk(*disk) for key, disk in found.items()}


def _push_delete(run: Run, undo: Undo, inputs: ImportInputs, volume_id: str) -> None:
    undo.push(f"delete-{volume_id}", lambda: delete_file(run, inputs.conversion_host_id, volume_id))


def _shut_down(run: Run, inputs: ImportInputs) -> None:
    run.phase("shutting down the guest", 0)
    with connected(run, inputs) as connection:
        shut_down(connection, inputs.source_ref, run.check)


def _inspect(run: Run, inputs: ImportInputs) -> str:
    """The VM as it is exported; its disks are still those that volumes were made for."""
    with connected(run, inputs) as connection:
        vm = read_vm(connection, inputs.source_ref)
    if vm.power is Power.SUSPENDED or (vm.power is Power.ON and vm.is_windows):
        raise FailedPreconditionError(
            f"VM {vm.name} is {vm.power} now; shut it down and try again", "VCENTER_POWER_STATE", {"vm": vm.name}
        )
    if [disk.key for disk in vm.disks] != [disk.key for disk in inputs.disks]:
        raise AbortedError(f"VM {vm.name} has other disks than a moment ago; try again", "SOURCE_CHANGED")
    return to_json(vm)


def _clone(run: Run, inputs: ImportInputs, vm: SourceVm) -> str:
    run.phase("cloning", 1)
    with connected(run, inputs) as connection:
        return clone(connection, vm, run.id, run.check)


def _delete_clone(run: Run, inputs: ImportInputs) -> None:
    with connected(run, inputs) as connection:
        # Undoing goes on when the operation is to be cancelled; only the end of this process stops it.
        delete_clones(connection, inputs.source_ref, run.id, lambda: run.pause(0))


def _staging(run: Run, inputs: ImportInputs) -> pb.StagingRef:
    return pb.StagingRef(pool_id=inputs.pool_id, staging_id=run.id)


def _create_staging(run: Run, inputs: ImportInputs, vm: SourceVm) -> None:
    request = pb.CreateStagingRequest(staging=_staging(run, inputs), needed_bytes=needed_bytes(vm))
    run.agents.call(
        address_of(inputs.conversion_host_id), lambda agent: agent.conversion.CreateStaging, request, _CALL_S
    )


def _export(run: Run, inputs: ImportInputs, vm: SourceVm, ref: str) -> dict[str, str]:
    """File names by device key."""
    run.phase("exporting", _EXPORT[0])
    host = address_of(inputs.conversion_host_id)
    staging = _staging(run, inputs)
    with connected(run, inputs) as connection:
        if inputs.by_host:
            return export_by_host(run, connection, host, staging, vm, ref, inputs)
        staged = run.agents.call(
            host, lambda agent: agent.conversion.GetStaging, pb.GetStagingRequest(staging=staging), _CALL_S
        )
        whole = frozenset(file.name for file in staged.files if file.complete)
        exporter = Exporter(
            connection,
            vm,
            ref,
            AgentSink(run.agents, host, staging, run.id, whole),
            stream_count(inputs.streams, len(vm.disks)),
            run.check,
            lambda done, total: run.progress("exporting", done, total, _EXPORT),
        )
        return {str(key): name for key, name in exporter.run().disks.items()}


def _convert(run: Run, inputs: ImportInputs, staged: Mapping[str, StagedDisk]) -> None:
    with session():
        volumes = [Volume.get_by_id(disk.volume_id) for disk in inputs.disks]
    vm = load(run.resource_id)
    request = pb.ConvertVmRequest(
        operation=run.ref(),
        staging=_staging(run, inputs),
        disks=[
            pb.SourceDisk(
                key=str(disk.key),
                name=staged[str(disk.key)].name,
                format=pb.SourceFormat.ValueType(staged[str(disk.key)].format),
                sha256=staged[str(disk.key)].sha256,
                target=wire.keyed_ref(volume, run.keys, inputs.iter_time_ms),
                size_bytes=volume.size_bytes,
                provisioning=wire.PROVISIONINGS[volume.provisioning],
            )
            for disk, volume in zip(inputs.disks, volumes, strict=True)
        ],
        mode=pb.ConvertVmRequest.COPY if inputs.files and not inputs.files.convert else pb.ConvertVmRequest.CONVERT,
        firmware=FIRMWARES[vm.firmware],
        timeout_s=inputs.timeout_s,
    )
    host = address_of(inputs.conversion_host_id)
    update = run.job(host, lambda agent: agent.conversion.ConvertVm, request, _CONVERT)
    record_made(run, inputs, volumes, update.conversion_report)


def _finish_staging(run: Run, inputs: ImportInputs) -> None:
    """The files first: as long as the row is there, their space is claimed."""
    _delete_staging(run, inputs)
    with transaction():
        delete_imports(VmImport.id == run.id)


def _delete_staging(run: Run, inputs: ImportInputs) -> None:
    request = pb.DeleteStagingRequest(staging=_staging(run, inputs))
    host = address_of(inputs.conversion_host_id)
    run.agents.call(host, lambda agent: agent.conversion.DeleteStaging, request, _CALL_S)


def _test_boot(run: Run, host_id: str) -> None:
    """Starts the VM without its network, so that it meets neither its original nor anybody else; it has to keep
    running for a while."""
    run.phase("test boot", _START[0])
    vm = load(run.resource_id)
    spec = vm_wire.spec(vm, run.keys)
    del spec.nics[:]
    host = address_of(host_id)
    start_job(run, host_id, vm_pb2.StartVmRequest(operation=run.ref(), spec=spec), _START)
    end = time.monotonic() + TEST_BOOT_S
    while time.monotonic() < end:
        run.check()
        run.pause(_TICK_S)
        state = power_states.power_state(vm_wire.ask(run.agents, host, vm.id).power_state)
        if state is not PowerState.RUNNING:
            raise FailedPreconditionError(
                f"VM {vm.name} did not keep running in its test boot: it is {state or 'in an unknown state'}; import it"
                " with --stopped, start it, and see its console",
                "TEST_BOOT_FAILED",
                {"vm": vm.name},
            )


def _leave_stopped(run: Run) -> None:
    with transaction():
        capacity.release(load(run.resource_id))
        set_state(run.resource_id, VmState.STOPPED, power_state=PowerState.STOPPED)


def _report(run: Run, vm: SourceVm) -> None:
    """The last word on an import: how long it took, and what was imported."""
    with transaction():
        row = load(run.resource_id)
        operation = Operation.get_by_id(run.id)
        origin = VmOrigin.get(VmOrigin.vm == row.id)
        took_s = int((now() - operation.create_time).total_seconds())
        message = (
            f"imported from {origin.source_name}: {vm.name} ({vm.ref}), {vm.guest_id or 'unknown guest'}, {vm.cpus}"
            f" CPUs, {vm.memory_bytes >> 20} MiB of memory, {len(vm.disks)} disks of {vm.capacity_bytes >> 20} MiB in"
            f" all, {len(vm.nics)} network interfaces, in {took_s // 60} min {took_s % 60} s"
        )
        events.record(
            "vm.import.report",
            events.Outcome.SUCCEEDED,
            run.user,
            "vm",
            row.id,
            row.name,
            message,
            operation_id=run.id,
            account_id=row.account_id,
        )
    log.info("a VM was imported", operation=run.id, vm=row.name, took_s=took_s, source=origin.source_name, ref=vm.ref)


def _record_failure(run: Run, undo: Undo, inputs: ImportInputs) -> None:
    """Undoes the rows. Where everything is surely gone nothing stays; what may still be there stays, to be deleted: the
    VM and its volumes by somebody, the clone and the staged files by `sweep`."""
    off = not undo.failed(FORCE_OFF, UNDEFINE)
    clean = off and not undo.failed(*(f"delete-{disk.volume_id}" for disk in inputs.disks))
    with transaction():
        vm = load(run.resource_id)
        if not undo.failed(_DELETE_CLONE, _UNSTAGE, warm.RESTORE, kvm_import.END_COPY):
            delete_imports(VmImport.id == run.id)
        if off:
            capacity.release(vm)
        for disk in inputs.disks:
            volume = Volume.get_or_none(Volume.id == disk.volume_id)
            if volume is not None and clean:
                delete_volume(volume, run.user, run.id)
            elif volume is not None:
                Volume.update(state=VolumeState.FAILED, state_reason=str(undo.error)).where(
                    Volume.id == volume.id
                ).execute()
        if clean:
            tpm.forget(vm.id)
            firmware_states.forget(vm.id)
            Vm.delete().where(Vm.id == vm.id).execute()
        else:
            power_state = PowerState.ABSENT if off else PowerState.UNKNOWN
            set_state(vm.id, VmState.FAILED, power_state=power_state, attention=f"not imported: {undo.error}")
