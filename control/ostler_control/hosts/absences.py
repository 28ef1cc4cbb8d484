"""Which VMs hosts have answered not to run, and when: newer than what the same hosts had reported of them before.

A host tells what happens on it by itself, to the replica that watches it. A job's answer takes another way, mostly to
another replica. When the host is cut off in between, only the answer tells that the VM has ended.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping

from ostler.types.v1 import vm_pb2

from ostler_control.agents.looks import Look, look
from ostler_control.agents.power_states import power_state
from ostler_control.database import joined, session
from ostler_control.models import VmAbsence, now, tuples
from ostler_control.states import OFF_POWER_STATES

# A host whose stream is dead counts as heard for less than a minute.
_KEPT = datetime.timedelta(days=1)


def record(vm_id: str, host_id: str, answer: vm_pb2.VmInfo) -> None:
    """Records a host's answer about a VM if it is that the VM does not run there: within the caller's transaction, if
    it has one."""
    if power_state(answer.power_state) in OFF_POWER_STATES:
        record_look(vm_id, host_id, look(answer))


def record_look(vm_id: str, host_id: str, moment: Look | None) -> None:
    """Records that a VM was seen not to run on a host. moment: None when the host's agent does not count."""
    if moment is None:
        return
    values = {"life": moment.life, "number": moment.number, "create_time": now()}
    with joined():
        VmAbsence.insert(vm=vm_id, host=host_id, **values).on_conflict(
            conflict_target=[VmAbsence.vm, VmAbsence.host], update=values
        ).execute()


def of(vm_ids: Collection[str]) -> Mapping[tuple[str, str], Look]:
    """By VM and host the last moment at which the host saw in a job that the VM does not run there."""
    query = VmAbsence.select(VmAbsence.vm, VmAbsence.host, VmAbsence.life, VmAbsence.number)
    with session():
        rows = tuples(query.where(VmAbsence.vm.in_(sorted(vm_ids))), tuple[str, str, int, int])
        return {(vm_id, host_id): Look(life, number) for vm_id, host_id, life, number in rows}


def prune() -> int:
    """Deletes those that no report can be older than any more; returns how many."""
    return int(VmAbsence.delete().where(VmAbsence.create_time < now() - _KEPT).execute())
