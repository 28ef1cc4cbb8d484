"""Moving a running VM to another host, live.

Only the two hosts know which of them runs the VM. After any failure both are asked, and their answer is recorded. While
neither answers, the VM stays `migrating`, its capacity claimed on both, until `vms.resolve` has asked them; it is
started nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from google.protobuf import json_format
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import job_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function

from ostler_control import settings
from ostler_control.agents.looks import look
from ostler_control.database import transaction
from ostler_control.hosts import absences, late_starts
from ostler_control.hosts.rows import address_and_state, address_of, silent
from ostler_control.hypervisors import rules
from ostler_control.models import Host, HostState, Operation, Pool, PowerState, Vm, VmState, Volume
from ostler_control.operations import Json, Run, lock_row, record_operation, workflow
from ostler_control.scheduling import capacity, placement_query
from ostler_control.states import OFF_POWER_STATES
from ostler_control.userdata import vm_user_data
from ostler_control.vms import firmware_states, isos, wire
from ostler_control.vms.find import migration_demand
from ostler_control.vms.locate import (
    Limits,
    MigrateInputs,
    Where,
    clean_destination,
    keep_arrived,
    locate,
    record_arrival,
    record_return,
)
from ostler_control.vms.rows import check_not_elsewhere, disks_of, load, running_host, set_state, wrong_state
from ostler_control.volumes import matrix
from ostler_control.volumes.create import delete_file
from ostler_control.volumes.files import check_mirrors_resolved
from ostler_control.volumes.wire import PROVISIONINGS


def migrate(
    vm: Vm,
    user: str,
    host: Host | None = None,
    with_storage: bool = False,
    pool: Pool | None = None,
    operation_id: str = "",
) -> Operation:
    """Records the operation that moves a running VM: to `host`, or to the best one that fits.

    with_storage: disks that the destination does not reach move too, into `pool` or a chosen one; operation_id: of the
    new operation, "" for a generated one.

    Raises FailedPreconditionError: VM_STATE, HOST_SILENT, RUNS_ELSEWHERE, FUNCTION_NOT_SUPPORTED, LOCAL_STORAGE,
    NO_FEASIBLE_HOST, NO_FEASIBLE_POOL.
    """
    vm = lock_row(vm)
    check_not_elsewhere(vm)
    source = running_host(vm)
    rules.need(Function.LIVE_MIGRATION, source)
    if vm.power_state in OFF_POWER_STATES:
        raise wrong_state(vm, "running")
    volumes = disks_of(vm.id)
    what = matrix.Operation.MIGRATE_VM_WITH_STORAGE if with_storage else matrix.Operation.MIGRATE_VM
    matrix.check_all(what, volumes, True)
    check_mirrors_resolved(volumes)
    choices = tuple(_pool_choices(vm, volume, with_storage, pool) for volume in volumes)
    demand = migration_demand(vm, host_id=host.id if host else "", pool_choices=choices)
    placement = placement_query.find_and_claim(vm, demand, claim=capacity.claim_destination)
    homes = dict(zip(volumes, placement.pool_ids, strict=True))
    moved = {volume.id: pool_id for volume, pool_id in homes.items() if pool_id != volume.pool_id}
    inputs = MigrateInputs(
        source_id=source.id,
        destination_id=placement.host_id,
        moved=moved,
        moved_from={volume.id: volume.pool_id for volume in volumes if volume.id in moved},
        limits=_limits(source.cluster_id),
    )
    operation = record_operation("vm.migrate", vm, user, inputs, also=volumes, operation_id=operation_id)
    set_state(vm.id, VmState.MIGRATING, power_state=vm.power_state)
    return operation


def _limits(cluster_id: str) -> Limits:
    at = settings.At(cluster_id=cluster_id)
    return Limits(
        max_downtime_ms=settings.migration.MAX_DOWNTIME.get(at),
        auto_converge=settings.migration.AUTO_CONVERGE.get(at),
        timeout_s=settings.migration.TIMEOUT.get(at),
        bandwidth_bytes_per_s=settings.migration.BANDWIDTH.get(at) << 20,
    )


def _pool_choices(vm: Vm, volume: Volume, with_storage: bool, pool: Pool | None) -> tuple[str, ...]:
    """The pools that a disk may be in after the migration: its present one and, if it may move, others."""
    if not with_storage:
        return (volume.pool_id,)
    encrypted = bool(volume.passphrase_id)
    others = placement_query.pools_for(vm.name, volume.size_bytes, encrypted, pool_id=pool.id if pool else "")
    return (volume.pool_id, *(other for other in others if other != volume.pool_id))


@workflow("vm.migrate")
def _migrate(run: Run) -> None:
    try:
        endpoint = run.step("prepare", lambda: _prepare(run))
        run.step("move", lambda: _move(run, endpoint))
    except OstlerError:
        if not record_where_it_is(run):
            raise
    else:
        run.always("arrived", lambda: record_arrival(run))
    finish(run)


def record_where_it_is(run: Run) -> bool:
    """Finds out which host has the VM and records it; whether that is the destination.

    Raises FailedPreconditionError MIGRATION_UNRESOLVED while neither host can tell.
    """
    found = run.always("locate", lambda: locate(run))
    match found["where"]:
        case Where.DESTINATION:
            run.always("arrived", lambda: record_arrival(run, found["power_state"]))
            return True
        case Where.SOURCE:
            run.always("return", lambda: record_return(run, found["power_state"]))
            with contextlib.suppress(OstlerError):  # the next migration to that host removes what stays there
                run.always("clean", lambda: clean_destination(run))
            return False
    run.always("strand", lambda: _strand(run))
    raise FailedPreconditionError(
        "the migration broke off, and its hosts do not answer where the VM runs; Ostler asks them when they are back, "
        "and starts the VM nowhere else until then",
        "MIGRATION_UNRESOLVED",
    )


def finish(run: Run) -> None:
    """After the arrival is recorded: completes the destination and removes moved disks from the source. Tries all of
    it, then raises the first error."""
    first: OstlerError | None = None
    tasks: list[tuple[str, Callable[[], None]]] = [("finish", lambda: keep_arrived(run))]
    if firmware_states.is_kept(run.resource_id):
        host_id = run.read(MigrateInputs).destination_id
        tasks.append(("keep-firmware-state", lambda: firmware_states.keep(run, host_id)))
    for number, volume_id in enumerate(sorted(run.read(MigrateInputs).moved)):
        tasks.append((f"remove-{number}", partial(_remove_source, run, volume_id)))
    for name, body in tasks:
        try:
            run.always(name, body)
        except OstlerError as error:
            first = first or error
    if first is not None:
        raise first


def _remove_source(run: Run, volume_id: str) -> None:
    inputs = run.read(MigrateInputs)
    delete_file(run, inputs.source_id, volume_id, pool_id=inputs.moved_from[volume_id])


def _prepare(run: Run) -> Json:
    vm, inputs = load(run.resource_id), run.read(MigrateInputs)
    vm_user_data.check_host(vm.id, inputs.destination_id)
    isos.check_host(vm.id, inputs.destination_id)
    request = agent_pb2.PrepareMigrationRequest(
        operation=run.ref(),
        spec=wire.spec(vm, run.keys, inputs.moved),
        moved_volumes=[
            agent_pb2.MovedVolume(
                volume_id=volume.file_id,
                size_bytes=volume.size_bytes,
                provisioning=PROVISIONINGS[volume.provisioning],
            )
            for volume in disks_of(vm.id)
            if volume.id in inputs.moved
        ],
        source_host_id=inputs.source_id,
        timeout_s=inputs.limits.timeout_s,
    )
    destination, state = address_and_state(inputs.destination_id)
    if state is HostState.FENCED:  # no VM is to come there before it is given back
        raise silent(destination, f"and VM {vm.name} cannot move there")
    update = run.job(destination, lambda agent: agent.migration.PrepareMigration, request, (0, 5))
    # If it was fenced meanwhile, it has answered since, perhaps, and the VM may arrive.
    run.defer_write(lambda: late_starts.note(vm.id, inputs.destination_id, request.operation.id))
    return json_format.MessageToDict(update.migration_endpoint)


def _move(run: Run, endpoint: Json) -> Json:
    vm, inputs = load(run.resource_id), run.read(MigrateInputs)
    request = agent_pb2.MigrateVmRequest(
        operation=run.ref(),
        vm_id=vm.id,
        endpoint=json_format.ParseDict(endpoint, job_pb2.MigrationEndpoint()),
        destination_spec=wire.spec(vm, None, inputs.moved),
        moved_volume_ids=sorted(volume.file_id for volume in disks_of(vm.id) if volume.id in inputs.moved),
        **asdict(inputs.limits),
    )
    source = address_of(inputs.source_id)
    update = run.job(source, lambda agent: agent.migration.MigrateVm, request, (5, 98))
    left = look(update.migration_report.look)
    run.defer_write(lambda: absences.record_look(vm.id, inputs.source_id, left))
    return json_format.MessageToDict(update.migration_report)


def _strand(run: Run) -> None:
    with transaction():
        vm = load(run.resource_id)
        hosts = (host.name for host in (vm.host, vm.destination) if host is not None)
        text = f"was migrating when its hosts {' and '.join(hosts)} fell silent; Ostler asks them when they are back"
        set_state(vm.id, VmState.MIGRATING, power_state=PowerState.UNKNOWN, attention=text)
