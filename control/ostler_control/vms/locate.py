"""Finding out where a VM is that was on its way, and recording that."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any

from ostler.agent.v1 import job_pb2 as agent_job_pb2
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import NotFoundError, OstlerError

from ostler_control.agents import HostAddress
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.models import Volume, now
from ostler_control.operations import Json, Run
from ostler_control.scheduling import capacity
from ostler_control.vms import wire
from ostler_control.vms.rows import disks_of, load, set_state
from ostler_control.volumes.wire import plain_ref

_LOOK_INTERVAL_S = 1.0


class Where(StrEnum):
    """Where a VM is that was to move."""

    SOURCE = "source"
    DESTINATION = "destination"
    UNKNOWN = "unknown"


def verdict(source: vm_pb2.VmInfo | None, destination: vm_pb2.VmInfo | None) -> Where | None:
    """What two hosts' words amount to (None: it did not answer); None: the move still goes on, so ask again. Pure.

    A guest runs on the destination only once the source has handed it over for good, and on the source only as long as
    it has not: either one's "it runs here" settles it. Absent or stopped on one side says nothing of the other.
    """
    if source is not None and source.migrating:
        return None
    if destination is not None and destination.power_state == vm_pb2.POWER_STATE_RUNNING:
        return Where.DESTINATION
    if source is not None and source.power_state == vm_pb2.POWER_STATE_RUNNING:
        return Where.SOURCE
    if source is None or destination is None:
        return Where.UNKNOWN
    # Both answer and on neither it runs: paused on one of them it is there; else it ended on its way, and its
    # definition says where.
    for info, where in ((destination, Where.DESTINATION), (source, Where.SOURCE)):
        if info.power_state == vm_pb2.POWER_STATE_PAUSED:
            return where
    at_destination = destination.power_state != vm_pb2.POWER_STATE_ABSENT
    return Where.DESTINATION if at_destination and source.power_state == vm_pb2.POWER_STATE_ABSENT else Where.SOURCE


def locate(run: Run) -> Json:
    """Inside a step: asks both hosts, for `unreachable_limit_s` when they do not answer; a move that still goes on is
    told to stop and waited for. Answers `where`, and the VM's `power_state` there ("" when not known)."""
    source, destination = address_of(run.inputs["source_id"]), address_of(run.inputs["destination_id"])
    silent_since = time.monotonic()
    while True:
        infos = {Where.SOURCE: _ask(run, source), Where.DESTINATION: _ask(run, destination)}
        where = verdict(infos[Where.SOURCE], infos[Where.DESTINATION])
        if where is None:
            _stop_move(run, source)
            silent_since = time.monotonic()
        elif where is not Where.UNKNOWN or time.monotonic() - silent_since >= run.agents.unreachable_limit_s:
            info = infos.get(where)
            return {"where": where.value, "power_state": wire.power_word(info.power_state) if info else ""}
        run.pause(_LOOK_INTERVAL_S)


def _ask(run: Run, host: HostAddress) -> vm_pb2.VmInfo | None:
    try:
        return wire.ask(run.agents, host, run.resource_id)
    except NotFoundError:
        return vm_pb2.VmInfo(vm_id=run.resource_id, power_state=vm_pb2.POWER_STATE_ABSENT)
    except OstlerError:
        return None


def _stop_move(run: Run, source: HostAddress) -> None:
    request = agent_job_pb2.CancelJobRequest(operation_id=f"{run.inputs.get('move_id', run.id)}.move")
    try:
        run.agents.call(source, lambda agent: agent.jobs.CancelJob, request)
    except OstlerError:
        return


def record_arrival(run: Run, power_state: str = "running") -> None:
    """Inside a step: the VM and the disks that moved with it are at the destination now."""
    moved: dict[str, str] = run.inputs["moved"]
    with transaction():
        capacity.arrive(load(run.resource_id))
        set_state(run.resource_id, "running", power_state=power_state, move_time=now())
        for volume_id, pool_id in moved.items():
            Volume.update(pool=pool_id).where(Volume.id == volume_id).execute()


def record_return(run: Run, power_state: str) -> None:
    """Inside a step: the VM is where it was. Its place at the destination is given back."""
    with transaction():
        capacity.release_destination(load(run.resource_id))
        set_state(run.resource_id, "running", power_state=power_state)


def keep_arrived(run: Run) -> None:
    """Inside a step: the destination keeps what it prepared."""
    _finish(run, arrived=True)


def clean_destination(run: Run) -> None:
    """Inside a step: the destination removes what it prepared."""
    _finish(run, arrived=False)


def _finish(run: Run, *, arrived: bool) -> None:
    volumes: list[Any] = disks_of(run.resource_id)
    moved: dict[str, str] = run.inputs["moved"]
    request = agent_pb2.FinishMigrationRequest(
        operation=run.ref(),
        vm_id=run.resource_id,
        arrived=arrived,
        key_ids=[volume.passphrase_id for volume in volumes if volume.passphrase_id],
        moved_volumes=[plain_ref(volume, moved[volume.id]) for volume in volumes if volume.id in moved],
    )
    run.job(address_of(run.inputs["destination_id"]), lambda agent: agent.migration.FinishMigration, request, (98, 100))
