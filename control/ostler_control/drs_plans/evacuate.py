"""Emptying a host for its maintenance, and filling it again."""

from __future__ import annotations

from collections.abc import Callable

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_control.drs import Mode, Plan
from ostler_control.drs_plans import store
from ostler_control.drs_plans.begin import check_none_active, execute_mapping
from ostler_control.drs_plans.generate import chosen, generate
from ostler_control.drs_plans.snapshot import movable
from ostler_control.hypervisors import rules
from ostler_control.models import DrsPlan, Host, Operation, Vm


def evacuation(host: Host) -> Plan:
    """The plan that brings every VM off a host, as far as the rules allow.

    Raises FailedPreconditionError NOT_IN_MAINTENANCE: else new VMs would come while the old ones go;
    FUNCTION_NOT_SUPPORTED when it has VMs that its hypervisor cannot migrate.
    """
    if not host.maintenance:
        raise FailedPreconditionError(
            f"host {host.name} is not in maintenance, so new VMs would come while the old ones go "
            f"(ostler host maintenance enter {host.name})",
            "NOT_IN_MAINTENANCE",
            {"host": host.name},
        )
    _check_migratable(host)
    return generate(host.cluster, Mode.EVACUATE, leaving=[host.id])


def check_can_evacuate(host: Host) -> None:
    """Raises FailedPreconditionError before a host enters maintenance: PLAN_ACTIVE, or FUNCTION_NOT_SUPPORTED when it
    runs VMs that its hypervisor cannot migrate."""
    check_none_active(host.cluster_id)
    _check_migratable(host)


def _check_migratable(host: Host) -> None:
    cluster = host.cluster
    if rules.may_support(Function.LIVE_MIGRATION, cluster.hypervisor_type):
        return
    names = [vm.name for vm in Vm.select(Vm.name).where(Vm.host == host.id).order_by(Vm.name).limit(5)]
    if names:
        raise FailedPreconditionError(
            f"hypervisors of type {rules.name_of(cluster.hypervisor_type)} do not support live-migration, and host "
            f"{host.name} runs VMs ({', '.join(names)}): stop them, or leave them there "
            f"(ostler host maintenance enter {host.name} --stay)",
            "FUNCTION_NOT_SUPPORTED",
            {
                "function": Function.LIVE_MIGRATION.value,
                "hypervisor_type": rules.name_of(cluster.hypervisor_type),
                "host": host.name,
            },
        )


def evacuate_host(host: Host, actor: str) -> Callable[[], Operation]:
    """Plans the evacuation of a host in maintenance. Returns what records the plan and the operation that executes it,
    within the caller's transaction; that raises FailedPreconditionError PLAN_ACTIVE."""
    found = evacuation(host)
    mode = Mode.EVACUATE.value
    return lambda: execute_mapping(host.cluster, found, actor, mode=mode, host_id=host.id)


def way_back(host: Host) -> Plan:
    """The plan that brings back what the last evacuation of the host took away and is still where that put it.

    VMs that cannot come back now are left out. Raises FailedPreconditionError NO_EVACUATION when there was none.
    """
    query = DrsPlan.select().where((DrsPlan.host_id == host.id) & (DrsPlan.mode == "evacuate"))
    last = query.order_by(DrsPlan.create_time.desc()).first()
    if last is None:
        raise FailedPreconditionError(
            f"host {host.name} was never evacuated, or that is forgotten", "NO_EVACUATION", {"host": host.name}
        )
    pairs: list[tuple[str, str]] = []
    for move in store.moves_of(last.id):
        vm = Vm.get_or_none(Vm.id == move.vm_id)
        if move.state == "done" and vm is not None and vm.host_id == move.destination_id and movable(vm):
            pairs.append((vm.id, host.id))
    return chosen(host.cluster, pairs, f"it was on {host.name} before its maintenance", leave_out=True)
