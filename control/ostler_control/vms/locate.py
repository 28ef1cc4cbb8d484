"""Finding out on which host a VM is after a migration that broke off, and recording it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict

from ostler.agent.v1 import job_pb2 as agent_job_pb2
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import NotFoundError, OstlerError

from ostler_control.agents import HostAddress, power_states
from ostler_control.database import session, transaction
from ostler_control.hosts import absences, late_starts
from ostler_control.hosts.rows import address_of, is_proved_off
from ostler_control.models import Host, PowerState, VmState, Volume, now
from ostler_control.operations import Run
from ostler_control.scheduling import capacity
from ostler_control.vms import tpm, wire
from ostler_control.vms.rows import disks_of, load, set_state
from ostler_control.volumes.wire import plain_ref

_ASK_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Limits:
    """How a live migration is done; named as in MigrateVmRequest."""

    max_downtime_ms: int
    auto_converge: bool
    timeout_s: int
    bandwidth_bytes_per_s: int


@dataclass(frozen=True)
class MigrateInputs:
    """What `vm.migrate` and `vm.resolve` are given.

    moved: volume id -> pool that it moves to; moved_from: volume id -> pool that it leaves; migration_id: for
    `vm.resolve`, the operation of the migration that broke off.
    """

    source_id: str
    destination_id: str
    moved: Mapping[str, str]
    moved_from: Mapping[str, str]
    limits: Limits
    migration_id: str = ""


class Found(TypedDict):
    """What `locate` answers. power_state: on that host, "" when it is not known."""

    where: str
    power_state: str


class Where(StrEnum):
    """Where a VM is after a migration that broke off."""

    SOURCE = "source"
    DESTINATION = "destination"
    UNKNOWN = "unknown"


def verdict(source: vm_pb2.VmInfo | None, destination: vm_pb2.VmInfo | None) -> Where | None:
    """Concludes from both hosts' answers (None: no answer) where the VM is; None: the migration still runs, so ask
    again. Pure.

    A guest runs on the destination only once the source has handed it over for good, and on the source only as long as
    it has not: "it runs here" from either is conclusive. Absent or stopped on one side says nothing of the other.
    """
    if source is not None and source.migrating:
        return None
    if destination is not None and destination.power_state == vm_pb2.POWER_STATE_RUNNING:
        return Where.DESTINATION
    if source is not None and source.power_state == vm_pb2.POWER_STATE_RUNNING:
        return Where.SOURCE
    if source is None or destination is None:
        return Where.UNKNOWN
    # Both answer and it runs on neither: paused on one of them, it is there; else it ended during the migration, and
    # its definition says where.
    for info, where in ((destination, Where.DESTINATION), (source, Where.SOURCE)):
        if info.power_state == vm_pb2.POWER_STATE_PAUSED:
            return where
    at_destination = destination.power_state != vm_pb2.POWER_STATE_ABSENT
    return Where.DESTINATION if at_destination and source.power_state == vm_pb2.POWER_STATE_ABSENT else Where.SOURCE


def locate(run: Run) -> Found:
    """Inside a step: asks both hosts, for `unreachable_limit_s` when they do not answer. A migration that still runs is
    canceled and waited for."""
    inputs = run.read(MigrateInputs)
    source, destination = address_of(inputs.source_id), address_of(inputs.destination_id)
    silent_since = time.monotonic()
    # A source that is proved off runs nothing; whether it had handed the VM over, the destination knows. A destination
    # that is proved off had the VM if the source has it no more.
    absent, stopped = vm_pb2.POWER_STATE_ABSENT, vm_pb2.POWER_STATE_STOPPED
    while True:
        infos = {Where.SOURCE: _ask(run, source, absent), Where.DESTINATION: _ask(run, destination, stopped)}
        where = verdict(infos[Where.SOURCE], infos[Where.DESTINATION])
        if where is None:
            _cancel_migration(run, source, inputs)
            silent_since = time.monotonic()
        elif where is not Where.UNKNOWN or time.monotonic() - silent_since >= run.agents.unreachable_limit_s:
            run.defer_write(lambda: _record_absences(run.resource_id, inputs, infos))  # noqa: B023 (the loop ends)
            info = infos.get(where)
            power_state = power_states.power_state(info.power_state) if info else PowerState.UNKNOWN
            return {"where": where.value, "power_state": power_state.value}
        run.pause(_ASK_INTERVAL_S)


def _record_absences(vm_id: str, inputs: MigrateInputs, infos: Mapping[Where, vm_pb2.VmInfo | None]) -> None:
    for where, host_id in ((Where.SOURCE, inputs.source_id), (Where.DESTINATION, inputs.destination_id)):
        if (info := infos[where]) is not None:
            absences.record(vm_id, host_id, info)


def _ask(run: Run, host: HostAddress, if_off: vm_pb2.PowerState.ValueType) -> vm_pb2.VmInfo | None:
    """if_off: what counts as the answer of a host that is proved off."""
    try:
        return wire.ask(run.agents, host, run.resource_id)
    except NotFoundError:
        return vm_pb2.VmInfo(vm_id=run.resource_id, power_state=vm_pb2.POWER_STATE_ABSENT)
    except OstlerError:
        with session():
            row = Host.get_or_none(Host.id == host.host_id)
            off = row is not None and is_proved_off(row, run.resource_id)
        return vm_pb2.VmInfo(vm_id=run.resource_id, power_state=if_off) if off else None


def _cancel_migration(run: Run, source: HostAddress, inputs: MigrateInputs) -> None:
    request = agent_job_pb2.CancelJobRequest(operation_id=f"{inputs.migration_id or run.id}.move")
    try:
        run.agents.call(source, lambda agent: agent.jobs.CancelJob, request)
    except OstlerError:
        return


def record_arrival(run: Run, power_state: str = PowerState.RUNNING) -> None:
    """Inside a step: the VM and the disks that moved with it are at the destination now."""
    with transaction():
        if PowerState(power_state).is_executing:
            late_starts.note(run.resource_id, run.read(MigrateInputs).destination_id, f"{run.id}.move")
        capacity.arrive(load(run.resource_id))
        set_state(run.resource_id, VmState.RUNNING, power_state=power_state, move_time=now())
        for volume_id, pool_id in run.read(MigrateInputs).moved.items():
            Volume.update(pool=pool_id).where(Volume.id == volume_id).execute()


def record_return(run: Run, power_state: str) -> None:
    """Inside a step: the VM is still on its source; releases its capacity at the destination."""
    with transaction():
        capacity.release_destination(load(run.resource_id))
        set_state(run.resource_id, VmState.RUNNING, power_state=power_state)


def keep_arrived(run: Run) -> None:
    """Inside a step: the destination keeps what it prepared."""
    _finish(run, arrived=True)


def clean_destination(run: Run) -> None:
    """Inside a step: the destination removes what it prepared."""
    _finish(run, arrived=False)


def _finish(run: Run, *, arrived: bool) -> None:
    inputs = run.read(MigrateInputs)
    volumes = disks_of(run.resource_id)
    request = agent_pb2.FinishMigrationRequest(
        operation=run.ref(),
        vm_id=run.resource_id,
        arrived=arrived,
        key_ids=[*(v.passphrase_id for v in volumes if v.passphrase_id), *tpm.key_ids(run.resource_id)],
        moved_volumes=[plain_ref(volume, inputs.moved[volume.id]) for volume in volumes if volume.id in inputs.moved],
    )
    run.job(address_of(inputs.destination_id), lambda agent: agent.migration.FinishMigration, request, (98, 100))
