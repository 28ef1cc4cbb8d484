"""Moving a running VM to another host, live.

Which of two hosts runs the VM is theirs to say, never ours to guess: whatever goes wrong on the way, both are asked,
and what they say is recorded. While neither can be asked the VM stays `migrating`, its place claimed on both, until
`vms.resolve` could ask them. It is started nowhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf import json_format
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import job_pb2
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function

from ostler_control import settings
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Operation, Pool
from ostler_control.operations import Json, Run, lock_row, record_operation, workflow
from ostler_control.placement import Demand, Placement
from ostler_control.scheduling import capacity, placement_query
from ostler_control.vms import wire
from ostler_control.vms.find import migration_demand
from ostler_control.vms.locate import Where, clean_destination, keep_arrived, locate, record_arrival, record_return
from ostler_control.vms.rows import disks_of, load, running_host, set_state, wrong_state
from ostler_control.volumes import matrix
from ostler_control.volumes.create import delete_file
from ostler_control.volumes.files import check_mirrors_resolved
from ostler_control.volumes.wire import PROVISIONINGS

# Two placements at once may choose the same last gap; the loser looks again.
_ATTEMPTS = 20


def migrate(
    vm: Any,
    user: str,
    host: Host | None = None,
    with_storage: bool = False,
    pool: Pool | None = None,
    operation_id: str = "",
) -> Operation:
    """Records the operation that moves a running VM: to `host`, or the best that fits.

    with_storage: disks that the destination does not reach move too, into `pool` or a chosen one; operation_id: of the
    new operation, "" for any.

    Raises FailedPreconditionError: VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED, LOCAL_STORAGE, NO_FEASIBLE_HOST,
    NO_FEASIBLE_POOL.
    """
    vm = lock_row(vm)
    source = running_host(vm)
    rules.need(Function.LIVE_MIGRATION, source)
    if vm.power_state in ("stopped", "crashed", "absent"):
        raise wrong_state(vm, "running")
    volumes = disks_of(vm.id)
    what = matrix.Operation.MIGRATE_VM_WITH_STORAGE if with_storage else matrix.Operation.MIGRATE_VM
    matrix.check_all(what, volumes, True)
    check_mirrors_resolved(volumes)
    choices = tuple(_pool_choices(vm, volume, with_storage, pool) for volume in volumes)
    placement = _place(vm, migration_demand(vm, host_id=host.id if host else "", pool_choices=choices))
    homes = dict(zip(volumes, placement.pool_ids, strict=True))
    moved = {volume.id: pool_id for volume, pool_id in homes.items() if pool_id != volume.pool_id}
    limits = {
        "max_downtime_ms": settings.migration.MAX_DOWNTIME.get(settings.At(cluster_id=source.cluster_id)),
        "auto_converge": settings.migration.AUTO_CONVERGE.get(settings.At(cluster_id=source.cluster_id)),
        "timeout_s": settings.migration.TIMEOUT.get(settings.At(cluster_id=source.cluster_id)),
        "bandwidth_bytes_per_s": settings.migration.BANDWIDTH.get(settings.At(cluster_id=source.cluster_id)) << 20,
    }
    inputs = {
        "source_id": source.id,
        "destination_id": placement.host_id,
        "moved": moved,
        "from": {volume.id: volume.pool_id for volume in volumes if volume.id in moved},
        "limits": limits,
    }
    operation = record_operation("vm.migrate", vm, user, inputs, also=volumes, operation_id=operation_id)
    set_state(vm.id, "migrating", power_state=vm.power_state)
    return operation


def _pool_choices(vm: Any, volume: Any, with_storage: bool, pool: Pool | None) -> tuple[str, ...]:
    """Where a disk may be after the move: where it is, or, if it may move, elsewhere."""
    if not with_storage:
        return (volume.pool_id,)
    encrypted = bool(volume.passphrase_id)
    others = placement_query.pools_for(vm.name, volume.size_bytes, encrypted, pool_id=pool.id if pool else "")
    return (volume.pool_id, *(other for other in others if other != volume.pool_id))


def _place(vm: Any, demand: Demand) -> Placement:
    """The destination, its capacity claimed; looks again when somebody else was faster."""
    for _ in range(_ATTEMPTS - 1):
        placement = placement_query.find(demand)
        try:
            capacity.claim_destination(vm, placement.host_id)
        except AbortedError:
            continue
        return placement
    placement = placement_query.find(demand)
    capacity.claim_destination(vm, placement.host_id)
    return placement


@workflow("vm.migrate")
def _migrate(run: Run) -> None:
    try:
        endpoint = run.step("prepare", lambda: _prepare(run))
        run.step("move", lambda: _move(run, endpoint))
    except OstlerError:
        if not settle(run):
            raise
    else:
        run.always("arrived", lambda: record_arrival(run))
    tidy_up(run)


def settle(run: Run) -> bool:
    """Finds out where the VM is, and records that; whether it is at the destination.

    Raises FailedPreconditionError MIGRATION_UNRESOLVED when nobody can tell now.
    """
    found = run.always("locate", lambda: locate(run))
    match found["where"]:
        case Where.DESTINATION:
            run.always("arrived", lambda: record_arrival(run, found["power_state"]))
            return True
        case Where.SOURCE:
            run.always("return", lambda: record_return(run, found["power_state"]))
            with contextlib.suppress(OstlerError):  # what stays there is removed by the next move to that host
                run.always("clean", lambda: clean_destination(run))
            return False
    run.always("strand", lambda: _strand(run))
    raise FailedPreconditionError(
        "the move broke off, and its hosts cannot be asked where the VM runs; Ostler asks them when they are back, "
        "and starts it nowhere else meanwhile",
        "MIGRATION_UNRESOLVED",
    )


def tidy_up(run: Run) -> None:
    """After the VM has arrived, with that recorded. Raises the first error once all was tried."""
    first: OstlerError | None = None
    tasks: list[tuple[str, Callable[[], None]]] = [("finish", lambda: keep_arrived(run))]
    for number, volume_id in enumerate(sorted(run.inputs["moved"])):
        tasks.append((f"remove-{number}", partial(_remove_source, run, volume_id)))
    for name, body in tasks:
        try:
            run.always(name, body)
        except OstlerError as error:
            first = first or error
    if first is not None:
        raise first


def _remove_source(run: Run, volume_id: str) -> None:
    delete_file(run, run.inputs["source_id"], volume_id, pool_id=run.inputs["from"][volume_id])


def _prepare(run: Run) -> Json:
    vm, moved = load(run.resource_id), run.inputs["moved"]
    request = agent_pb2.PrepareMigrationRequest(
        operation=run.ref(),
        spec=wire.spec(vm, run.keys, moved),
        moved_volumes=[
            agent_pb2.MovedVolume(
                volume_id=volume.file_id,
                size_bytes=volume.size_bytes,
                provisioning=PROVISIONINGS[volume.provisioning],
            )
            for volume in disks_of(vm.id)
            if volume.id in moved
        ],
    )
    destination = address_of(run.inputs["destination_id"])
    update = run.job(destination, lambda agent: agent.migration.PrepareMigration, request, (0, 5))
    return json_format.MessageToDict(update.migration_endpoint)


def _move(run: Run, endpoint: Json) -> Json:
    vm, moved = load(run.resource_id), run.inputs["moved"]
    request = agent_pb2.MigrateVmRequest(
        operation=run.ref(),
        vm_id=vm.id,
        endpoint=json_format.ParseDict(endpoint, job_pb2.MigrationEndpoint()),
        destination_spec=wire.spec(vm, None, moved),
        moved_volume_ids=sorted(volume.file_id for volume in disks_of(vm.id) if volume.id in moved),
        **run.inputs["limits"],
    )
    source = address_of(run.inputs["source_id"])
    update = run.job(source, lambda agent: agent.migration.MigrateVm, request, (5, 98))
    return json_format.MessageToDict(update.migration_report)


def _strand(run: Run) -> None:
    with transaction():
        vm = load(run.resource_id)
        text = (
            f"on its way from {vm.host.name} to {vm.destination.name} when both went silent; asking when they are back"
        )
        set_state(vm.id, "migrating", power_state="", attention=text)
