"""Copying a file on a host: which host can, and the job. Sources and targets are volumes, snapshots, VolumeFiles."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.hypervisors import Function

from ostler_control.hosts.choose import check_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import BackupDisk, Host, Pool, Snapshot, Vm, VmSnapshotMemory, Volume
from ostler_control.operations import Run
from ostler_control.volumes import wire
from ostler_control.volumes.host_jobs import check_host_available
from ostler_control.volumes.increments import parents_of
from ostler_control.volumes.rows import FileRow, running_host
from ostler_control.volumes.sourcing import sources


def choose_copying_host(source_pool: Pool, target_pool: Pool, encrypted: bool, vm: Vm | None) -> Host | None:
    """The host that must copy because the source is in use there; None when the workflow may choose among several.

    vm: what the source is attached to. encrypted: whether source or target is.
    Raises FailedPreconditionError: NO_COMMON_HOST, NO_CAPABLE_HOST, HOST_SILENT, VM_STATE, LACKS_POOL,
    LACKS_VOLUME_ENCRYPTION, FUNCTION_NOT_SUPPORTED.
    """
    host = running_host(vm) if vm is not None else None
    if host is None:
        check_host_available(source_pool, encrypted, target_pool)
        return None
    rules.need(Function.ONLINE_COPY, host)
    check_host(host, target_pool, encrypted)
    return host


def copy_disks(
    run: Run,
    host_id: str,
    pairs: Sequence[tuple[Volume, FileRow]],
    iter_time_ms: int,
    *,
    vm_id: str = "",
    share: tuple[int, int] = (0, 100),
    memory: VmSnapshotMemory | None = None,
) -> dict[str, volume_pb2.VolumeInfo]:
    """Inside a step: makes the host fill all targets, which are thin, with their sources as of one moment.

    Returns what each target is then, by the id of its file. vm_id: the VM that runs on that host with the sources;
    memory: the file that gets its memory of the same moment; the rest as in `copy_file` and `Run.job`.
    """
    request = agent_pb2.CopyDisksRequest(
        operation=run.ref(),
        vm_id=vm_id,
        disks=[
            agent_pb2.DiskCopy(
                source=wire.keyed_ref(source, run.keys), target=wire.keyed_ref(target, run.keys, iter_time_ms)
            )
            for source, target in pairs
        ],
        memory=wire.keyed_ref(memory, run.keys, iter_time_ms) if memory is not None else None,
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.CopyDisks, request, share)
    made = [*update.copied_disks.volumes, *([update.copied_disks.memory] if memory is not None else [])]
    return {info.volume_id: info for info in made}


def copy_file(
    run: Run, host_id: str, source: FileRow, target: FileRow, iter_time_ms: int, *, size_bytes: int = 0, vm_id: str = ""
) -> volume_pb2.VolumeInfo:
    """Inside a step: makes the host fill the target, which must not exist yet; returns what it is then.

    iter_time_ms: how long the target's passphrase is stretched; size_bytes: the target's, 0 for the source's;
    vm_id: the VM that runs on that host with the source.
    """
    if isinstance(source, BackupDisk):
        layers = sources([source, *parents_of(source)], run.keys)
    else:
        layers = [wire.keyed_ref(source, run.keys)]
    request = agent_pb2.CopyVolumeRequest(
        operation=run.ref(),
        source=layers[0] if len(layers) == 1 else None,
        target=wire.keyed_ref(target, run.keys, iter_time_ms),
        size_bytes=size_bytes,
        provisioning=wire.PROVISIONINGS[
            "thin" if isinstance(target, Snapshot | BackupDisk | VmSnapshotMemory) else target.provisioning
        ],
        vm_id=vm_id,
        layers=layers if len(layers) > 1 else [],
    )
    return run.job(address_of(host_id), lambda agent: agent.volumes.CopyVolume, request).volume
