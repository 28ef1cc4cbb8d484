"""Starting a stopped VM."""

from __future__ import annotations

from typing import Any

import structlog
from ostler_common.errors import FailedPreconditionError, UnavailableError

from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address, is_up, silent
from ostler_control.models import Host, Operation
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.scheduling import capacity, placement_query
from ostler_control.vms import wire
from ostler_control.vms.create import force_off, forget_on, start_on
from ostler_control.vms.rows import EXECUTING, disks_of, load, set_state, wrong_state
from ostler_control.volumes import matrix
from ostler_control.volumes.files import check_mirrors_resolved

log = structlog.get_logger(__name__)


def start(vm: Any, user: str, host: Host | None = None) -> Operation:
    """Records the operation that starts a VM: on `host`, else on its last one if it fits, else on another.

    A VM that Ostler believes running, and whose host says that it has stopped, starts there again; one that somebody
    started by other means is taken over where it runs. Raises FailedPreconditionError: VM_STATE, HOST_SILENT,
    RUNS_ELSEWHERE, MIRROR_UNRESOLVED, NO_FEASIBLE_HOST.
    """
    vm = lock_row(vm)
    if vm.attention.startswith("RUNS "):
        raise FailedPreconditionError(f"VM {vm.name} {vm.attention}; end that first", "RUNS_ELSEWHERE", {"vm": vm.id})
    disks = disks_of(vm.id)
    check_mirrors_resolved(disks)
    if vm.state == "running":
        host_id = _restarts_on(vm, host)
    elif vm.state == "stopped" and vm.power_state in EXECUTING:
        host_id = _adopts_on(vm, host)
    elif vm.state == "stopped":
        matrix.check_all(matrix.Operation.START_VM, disks, False)
        demand = placement_query.demand_of(vm, host_id=host.id if host else "", preferred_host_id=vm.last_host_id or "")
        host_id = placement_query.find_and_claim(vm, demand).host_id
    else:
        raise wrong_state(vm, "stopped")
    operation = record_operation("vm.start", vm, user, {"host_id": host_id, "last_host_id": vm.last_host_id or ""})
    set_state(vm.id, "starting")
    return operation


def _restarts_on(vm: Any, wanted: Host | None) -> str:
    """The host of a VM that stopped by itself: its place there is still its own."""
    host: Any = Host.get_by_id(vm.host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    if vm.power_state in (*EXECUTING, ""):
        raise wrong_state(vm, "stopped")
    if wanted is not None and wanted.id != host.id:
        raise FailedPreconditionError(
            f"VM {vm.name} has its place on host {host.name}; stop it before it starts on another", "ALREADY_PLACED"
        )
    return str(host.id)


def _adopts_on(vm: Any, wanted: Host | None) -> str:
    """The host on which somebody else has started the VM: it gets its place there, and the agent leaves it running."""
    last: Any = Host.get_by_id(vm.last_host_id)
    if vm.power_state != "running" or (wanted is not None and wanted.id != last.id):
        raise wrong_state(vm, "stopped")
    return placement_query.find_and_claim(vm, placement_query.demand_of(vm, host_id=last.id)).host_id


@workflow("vm.start")
def _start(run: Run) -> None:
    host_id, last_host_id = run.inputs["host_id"], run.inputs["last_host_id"]
    with run.undoing() as undo:
        undo.push("settle", lambda: _settle(run, undo))
        if last_host_id not in ("", host_id):
            run.step("leave", lambda: _leave(run, last_host_id))
        undo.push("plug", lambda: force_off(run, host_id))
        run.step("start", lambda: start_on(run, host_id))


def _leave(run: Run, last_host_id: str) -> None:
    """The old host forgets the VM, so that nobody starts it there as well. One that is silent or gone is left alone:
    the VM was stopped there before."""
    with session():
        last: Any = Host.get_or_none((Host.id == last_host_id) & ~Host.removed)
    if last is None or not is_up(last):
        return
    try:
        info = wire.ask(run.agents, address(last), run.resource_id)
        if wire.power_word(info.power_state) not in EXECUTING:
            forget_on(run, last_host_id)
            return
    except UnavailableError as error:
        log.warning("the VM's last host keeps its definition", vm=run.resource_id, host=last.name, reason=error.reason)
        return
    raise FailedPreconditionError(
        f"the VM runs on host {last.name}, where it was started outside Ostler", "RUNS_ELSEWHERE", {"host": last.name}
    )


def _settle(run: Run, undo: Undo) -> None:
    """A VM that surely is off is stopped again; one that may run after all keeps its place."""
    with transaction():
        vm = load(run.resource_id)
        if undo.failed("plug"):
            set_state(vm.id, "running", power_state="", attention=f"perhaps not running: {undo.error}")
            return
        capacity.release(vm)
        set_state(vm.id, "stopped", power_state="stopped")
