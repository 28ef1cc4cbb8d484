"""Having a host copy a file: which host can, and the job. Sources and targets are volumes, snapshots, VolumeFiles."""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.hypervisors import Function

from ostler_control.hosts.choose import check_host, choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.operations import Run
from ostler_control.volumes import wire
from ostler_control.volumes.rows import running_host


def choose_copying_host(source_pool: Any, target_pool: Any, encrypted: bool, vm: Any | None) -> Any | None:
    """The host that must do the copy because the source is in use there; None when any of several may (`worker`).

    vm: what the source is attached to. encrypted: whether source or target is.
    Raises FailedPreconditionError: NO_COMMON_HOST, NO_CAPABLE_HOST, HOST_SILENT, VM_STATE, LACKS_POOL,
    LACKS_VOLUME_ENCRYPTION, FUNCTION_NOT_SUPPORTED.
    """
    host = running_host(vm) if vm is not None else None
    if host is None:
        choose_host(source_pool, encrypted, lambda _: 0, target_pool)
        return None
    rules.need(Function.ONLINE_COPY, host)
    check_host(host, target_pool, encrypted)
    return host


def copy_file(
    run: Run, host_id: str, source: Any, target: Any, *, size_bytes: int = 0, vm_id: str = ""
) -> volume_pb2.VolumeInfo:
    """Inside a step: has the host fill the target, which must not exist yet; tells what it is then.

    size_bytes: the target's, 0 for the source's; vm_id: the VM that runs on that host with the source.
    The operation's input `iter_time_ms` is how long the target's passphrase is stretched.
    """
    request = agent_pb2.CopyVolumeRequest(
        operation=run.ref(),
        source=wire.keyed_ref(source, run.keys),
        target=wire.keyed_ref(target, run.keys, run.inputs["iter_time_ms"]),
        size_bytes=size_bytes,
        provisioning=wire.PROVISIONINGS[getattr(target, "provisioning", "thin")],
        vm_id=vm_id,
    )
    return run.job(address_of(host_id), lambda agent: agent.volumes.CopyVolume, request).volume
