"""Starts the protected VMs of hosts that are proved off: highest priority first."""

from __future__ import annotations

import datetime

import structlog
from ostler_common.errors import OstlerError
from peewee import Case

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.models import Host, Operation, OperationState, PowerState, Priority, Vm, VmRestart, VmState, now
from ostler_control.operations import launch
from ostler_control.operations.records import error_from_json, request_cancel
from ostler_control.outage import outage
from ostler_control.vms.start import start

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S, _MAX_PAUSE_S = 10, 300
# A start that works takes seconds. One that hangs in a host's hypervisor may go on any moment, so that the VM is
# started nowhere else meanwhile.
HANGS_S = 600.0


class Restarts:
    """The VMs that wait, and since when this process has seen the starts of some of them under way."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}  # by operation; 0 once it was cancelled

    def tick(self, clock_s: float) -> None:
        """Starts what waits and can be started; what cannot is tried again later, its reason recorded.

        A VM without a place, or one with which a bug meets, does not hold up those after it.
        """
        rows = _due()
        self._watch(rows, clock_s)
        for row in rows:
            try:
                operation = _restart(row)
            except OstlerError as error:
                _postpone(row, error.message, tell=row.attempts == 0)
            except Exception as error:
                if outage(error) is not None:
                    raise
                log.exception("a VM is not restarted by a bug; it is tried again", vm=row.vm_id)
                _postpone(row, "its restart failed by a bug; the control plane's log has the details", tell=False)
            else:
                if operation is not None:
                    launch(operation)

    def _watch(self, rows: list[VmRestart], clock_s: float) -> None:
        """Cancels starts that take too long; an event says so once."""
        ids = [row.operation_id for row in rows if row.operation_id]
        if not ids:
            self._begun = {}
            return
        with session():
            running = list(Operation.select().where(Operation.id.in_(ids), Operation.state == OperationState.RUNNING))
        self._begun = {operation.id: self._begun.get(operation.id, clock_s) for operation in running}
        for operation in running:
            if 0 < self._begun[operation.id] <= clock_s - HANGS_S:
                _cancel(operation)
                self._begun[operation.id] = 0.0


def _due() -> list[VmRestart]:
    with session():
        ranks = tuple((priority.value, priority.rank) for priority in Priority)
        rank = Case(VmRestart.priority, ranks, 0)
        query = VmRestart.select(VmRestart, Vm).join(Vm).order_by(rank.desc(), Vm.name)
        # None waits longer than that, unless the clock was put back.
        latest = now() + datetime.timedelta(seconds=_MAX_PAUSE_S)
        return list(query.where((VmRestart.next_time <= now()) | (VmRestart.next_time > latest)))


def _restart(row: VmRestart) -> Operation | None:
    """One transaction: the start is recorded with the row that remembers it, so that there is never a second."""
    with transaction():
        fresh = VmRestart.get_or_none(VmRestart.id == row.id)
        if fresh is None or fresh.vm.operation_id:
            return None
        vm: Vm = fresh.vm
        last = Operation.get_or_none(Operation.id == fresh.operation_id) if fresh.operation_id else None
        is_back = vm.state is VmState.RUNNING and vm.power_state.is_executing
        if is_back or (last is not None and last.state is OperationState.SUCCEEDED):
            VmRestart.delete().where(VmRestart.id == fresh.id).execute()
            return None
        if last is not None and last.state.is_over:
            VmRestart.update(operation_id="").where(VmRestart.id == fresh.id).execute()
            _postpone(fresh, error_from_json(last.error).message if last.error else "its start failed", tell=False)
            return None
        if vm.state is VmState.RUNNING and vm.power_state is PowerState.UNKNOWN:
            # The host of its last start decides: it says what it runs, or is proved off as well.
            name = vm.host.name if vm.host else "its host"
            _postpone(fresh, f"it may run on host {name} already, which has not told since its last start", tell=False)
            return None
        lost_host = Host.get_or_none(Host.id == fresh.lost_host_id)
        operation = start(vm, SYSTEM, lost_host=lost_host)
        VmRestart.update(operation_id=operation.id, reason="").where(VmRestart.id == fresh.id).execute()
        return operation


def _postpone(row: VmRestart, reason: str, tell: bool) -> None:
    """tell: by an event; else the start's own event has told."""
    pause_s = min(_FIRST_PAUSE_S * 2 ** min(row.attempts, 10), _MAX_PAUSE_S)
    values = {
        "attempts": row.attempts + 1,
        "next_time": now() + datetime.timedelta(seconds=pause_s),
        "reason": reason,
    }
    with transaction():
        VmRestart.update(**values).where(VmRestart.id == row.id).execute()
        if tell:
            _tell(row.vm_id, "vm.restart.wait", f"it cannot restart yet, and is tried again: {reason}")
    log.warning("a VM of a host that is proved off cannot start yet", vm=row.vm_id, reason=reason)


def _cancel(operation: Operation) -> None:
    with transaction():
        request_cancel(operation.id)
        text = (
            f"its restart takes longer than {HANGS_S / 60:g} minutes and is cancelled; while the host of the start "
            "does not end it, the VM may come up there any moment and starts nowhere else; look at that host "
            f"(ostler operation show {operation.id})"
        )
        _tell(operation.resource_id, "vm.restart.hangs", text)
    log.warning("a restart of a VM hangs", vm=operation.resource_id, operation=operation.id)


def _tell(vm_id: str, type: str, text: str) -> None:
    vm = Vm.get_or_none(Vm.id == vm_id)
    if vm is not None:
        outcome, account_id = events.Outcome.NOTICED, str(vm.account_id)
        events.record(type, outcome, SYSTEM, "vm", vm.id, vm.name, text, account_id=account_id)
