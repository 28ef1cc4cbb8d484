"""Starts the protected VMs of hosts that are proved off: highest priority first."""

from __future__ import annotations

import datetime

import structlog
from ostler_common.errors import OstlerError
from peewee import Case

from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.models import Host, Operation, OperationState, Priority, Vm, VmRestart, VmState, now
from ostler_control.operations import launch
from ostler_control.operations.records import error_from_json
from ostler_control.vms.start import start

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S, _MAX_PAUSE_S = 10, 300


def restart_vms() -> None:
    """Starts what waits and can be started; what cannot is tried again later, its reason recorded.

    A VM without a place does not hold up those after it.
    """
    with session():
        ranks = tuple((priority.value, priority.rank) for priority in Priority)
        rank = Case(VmRestart.priority, ranks, 0)
        query = VmRestart.select(VmRestart, Vm).join(Vm).order_by(rank.desc(), Vm.name)
        rows = list(query.where(VmRestart.next_time <= now()))
    for row in rows:
        try:
            operation = _restart(row)
        except OstlerError as error:
            _postpone(row, error.message)
        else:
            if operation is not None:
                launch(operation)


def _restart(row: VmRestart) -> Operation | None:
    """One transaction: the start is recorded with the row that remembers it, so that there is never a second."""
    with transaction():
        fresh = VmRestart.get_or_none(VmRestart.id == row.id)
        if fresh is None or fresh.vm.operation_id:
            return None
        vm: Vm = fresh.vm
        last = Operation.get_or_none(Operation.id == fresh.operation_id) if fresh.operation_id else None
        if vm.state is VmState.RUNNING or (last is not None and last.state is OperationState.SUCCEEDED):
            VmRestart.delete().where(VmRestart.id == fresh.id).execute()
            return None
        if last is not None and last.state.is_over:
            VmRestart.update(operation_id="").where(VmRestart.id == fresh.id).execute()
            _postpone(fresh, error_from_json(last.error).message if last.error else "its start failed")
            return None
        lost_host = Host.get_or_none(Host.id == fresh.lost_host_id)
        operation = start(vm, SYSTEM, lost_host=lost_host)
        VmRestart.update(operation_id=operation.id, reason="").where(VmRestart.id == fresh.id).execute()
        return operation


def _postpone(row: VmRestart, reason: str) -> None:
    pause_s = min(_FIRST_PAUSE_S * 2 ** min(row.attempts, 10), _MAX_PAUSE_S)
    values = {
        "attempts": row.attempts + 1,
        "next_time": now() + datetime.timedelta(seconds=pause_s),
        "reason": reason,
    }
    with transaction():
        VmRestart.update(**values).where(VmRestart.id == row.id).execute()
    log.warning("a VM of a host that is proved off cannot start yet", vm=row.vm_id, reason=reason)
