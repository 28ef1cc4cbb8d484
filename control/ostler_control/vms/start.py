"""Starting a stopped VM."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from ostler_common.errors import FailedPreconditionError, UnavailableError

from ostler_control.agents import power_states
from ostler_control.catalog.sizes import renew_maximum
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address, is_up, silent
from ostler_control.models import Host, Operation, PowerState, Vm, VmState
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.scheduling import capacity, placement_query
from ostler_control.vms import driver_details, extra_configs, firmware_states, wire
from ostler_control.vms.on_host import FORCE_OFF, force_off, start_on, undefine
from ostler_control.vms.rows import check_not_elsewhere, disks_of, load, set_state, wrong_state
from ostler_control.volumes import matrix
from ostler_control.volumes.files import check_mirrors_resolved

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StartInputs:
    """What `vm.start` is given. last_host_id: where the VM was defined before, "" for nowhere."""

    host_id: str
    last_host_id: str


def start(
    vm: Vm, user: str, host: Host | None = None, lost_host: Host | None = None, operation_id: str = ""
) -> Operation:
    """Records the operation that starts a VM: on `host`, else on its last host if it fits, else on another.

    A VM that is recorded as running, and whose host reports that it has stopped, starts there again; one that was
    started outside Ostler is adopted where it runs. lost_host: the VM ran there and the host has failed, so that it
    may use what that host's cluster keeps in reserve.
    Raises FailedPreconditionError: VM_STATE, VM_PAUSED, HOST_SILENT, RUNS_ELSEWHERE, MIRROR_UNRESOLVED,
    NO_FEASIBLE_HOST, and what `extra_configs.check_start` and `driver_details.check` raise.
    """
    vm = lock_row(vm)
    check_not_elsewhere(vm)
    disks = disks_of(vm.id)
    check_mirrors_resolved(disks)
    if vm.state is VmState.RUNNING:
        extra_configs.check_start(vm)
        host_id = _restart_host(vm, host)
        renew_maximum(vm)
    elif vm.state is VmState.STOPPED and vm.power_state.is_executing:
        host_id = _adoption_host(vm, host)
    elif vm.state is VmState.STOPPED:
        extra_configs.check_start(vm)
        matrix.check_all(matrix.Operation.START_VM, disks, False)
        demand = placement_query.demand_of(
            vm,
            host_id=host.id if host else "",
            preferred_host_id=vm.last_host_id or "",
            reserve_of=lost_host.cluster_id if lost_host else "",
        )
        host_id = placement_query.find_and_claim(vm, demand).host_id
        renew_maximum(vm)
    else:
        raise wrong_state(vm, "stopped")
    driver_details.check(vm, host_id)
    inputs = StartInputs(host_id, vm.last_host_id or "")
    operation = record_operation("vm.start", vm, user, inputs, operation_id=operation_id)
    set_state(vm.id, VmState.STARTING)
    return operation


def _restart_host(vm: Vm, wanted: Host | None) -> str:
    """The host of a VM that stopped by itself, whose capacity there is still claimed."""
    host = Host.get_by_id(vm.host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    if vm.power_state.is_executing or vm.power_state is PowerState.UNKNOWN:
        raise wrong_state(vm, "stopped")
    if wanted is not None and wanted.id != host.id:
        raise FailedPreconditionError(
            f"VM {vm.name} has its place on host {host.name}; stop it before it starts on another", "ALREADY_PLACED"
        )
    return host.id


def _adoption_host(vm: Vm, wanted: Host | None) -> str:
    """The host on which somebody has started the VM outside Ostler; claims its capacity there."""
    last = Host.get_by_id(vm.last_host_id)
    if vm.power_state is PowerState.PAUSED:
        raise FailedPreconditionError(
            f"VM {vm.name} was started outside Ostler on host {last.name}, and is paused there: resume it with the "
            f"tool that paused it, then start it to take it over, or power it off (ostler vm stop {vm.name} --force)",
            "VM_PAUSED",
            {"vm": vm.id, "host": last.name},
        )
    if wanted is not None and wanted.id != last.id:
        raise FailedPreconditionError(
            f"VM {vm.name} runs on host {last.name}, where it was started outside Ostler: it cannot start on host "
            f"{wanted.name} as well; take it over where it runs (ostler vm start {vm.name}), or stop it first "
            f"(ostler vm stop {vm.name})",
            "VM_STATE",
            {"vm": vm.id, "state": vm.state, "host": last.name},
        )
    return placement_query.find_and_claim(
        vm, placement_query.demand_of(vm, host_id=last.id, reserve_of=last.cluster_id)
    ).host_id


@workflow("vm.start")
def _start(run: Run) -> None:
    inputs = run.read(StartInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: record_failed_start(run, undo))
        is_elsewhere = inputs.last_host_id != inputs.host_id  # or lost, or it has never run
        if is_elsewhere and firmware_states.is_kept(run.resource_id):
            run.step("take-firmware-state", lambda: firmware_states.take_along(run, inputs.last_host_id))
        if inputs.last_host_id not in ("", inputs.host_id):
            run.step("undefine-on-last-host", lambda: undefine_on_last_host(run, inputs.last_host_id))
        undo.push(FORCE_OFF, lambda: force_off(run, inputs.host_id))
        kept: bool = run.step("start", lambda: start_on(run, inputs.host_id))
    firmware_states.keep_step(run, inputs.host_id, kept)


def undefine_on_last_host(run: Run, last_host_id: str) -> None:
    """Deletes the definition on the last host, so that nobody starts the VM there as well. Skips a host that is silent
    or removed: the VM was stopped there before."""
    with session():
        last = Host.get_or_none((Host.id == last_host_id) & ~Host.removed)
    if last is None or not is_up(last):
        return
    try:
        undefine_stopped(run, last)
    except UnavailableError as error:
        log.warning("the VM's last host keeps its definition", vm=run.resource_id, host=last.name, reason=error.reason)


def undefine_stopped(run: Run, host: Host) -> None:
    """Deletes the definition on a host, with what firmware keeps there. Raises UnavailableError, and
    FailedPreconditionError RUNS_ELSEWHERE."""
    info = wire.ask(run.agents, address(host), run.resource_id)
    if power_states.power_state(info.power_state).is_executing:
        raise FailedPreconditionError(
            f"the VM runs on host {host.name}, where it was started outside Ostler",
            "RUNS_ELSEWHERE",
            {"host": host.name},
        )
    undefine(run, host.id)


def record_failed_start(run: Run, undo: Undo) -> None:
    """A VM that is certainly off is stopped again; one that may still run keeps its capacity."""
    with transaction():
        vm = load(run.resource_id)
        if undo.failed(FORCE_OFF):
            text = f"may not be running: {undo.error}"
            set_state(vm.id, VmState.RUNNING, power_state=PowerState.UNKNOWN, attention=text)
            return
        capacity.release(vm)
        set_state(vm.id, VmState.STOPPED, power_state=PowerState.STOPPED)
