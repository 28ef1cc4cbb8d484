"""Making plans out of the database. Reads only: `store.keep` writes them down."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.hypervisors import Function

from ostler_control.drs import Mode, Placements, Plan, Settings, plan
from ostler_control.drs.algorithms import algorithm
from ostler_control.drs.model import HostLoad, LeftOut, Move, Verdict
from ostler_control.drs.planner import is_measured
from ostler_control.drs.relief import Resource, relieve
from ostler_control.drs.state import State
from ostler_control.drs_plans.snapshot import Present, take
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster
from ostler_control.placement.words import in_one_word

MAX_MIGRATIONS = 1000


def generate(
    cluster: Cluster, mode: Mode = Mode.BALANCE, max_migrations: int = 0, *, leaving: Sequence[str] = ()
) -> Plan:
    """A plan for the cluster as it is now. max_migrations 0: the setting's.

    Raises InvalidArgumentError; FailedPreconditionError CLUSTER_DISABLED, FUNCTION_NOT_SUPPORTED, or the planner's.
    """
    if not 0 <= max_migrations <= MAX_MIGRATIONS:
        raise bad_field("max_migrations", f"must be 1 to {MAX_MIGRATIONS}, or 0 for the setting drs.max.migrations")
    if not cluster.enabled and mode is not Mode.EVACUATE:
        raise FailedPreconditionError(
            f"cluster {cluster.name} is disabled: its hosts take no VMs "
            f"(`ostler cluster update {cluster.name} --enable`)",
            "CLUSTER_DISABLED",
        )
    if mode is not Mode.EVACUATE:
        rules.need_of_type(Function.LIVE_MIGRATION, cluster.hypervisor_type)
    present = take(cluster)
    wanted = _limited(present.settings, max_migrations)
    if mode is Mode.EVACUATE and not is_measured(present.snapshot, wanted):
        wanted = wanted.of_allocated()  # VMs must leave, however even the others are filled
    return plan(present.snapshot, wanted, mode, leaving=leaving)


def relief(cluster: Cluster, hot: Mapping[str, Collection[Resource]]) -> Plan:
    """A plan that moves VMs away from hot hosts of the cluster, by their ids. Raises FailedPreconditionError
    FUNCTION_NOT_SUPPORTED, or the planner's."""
    rules.need_of_type(Function.LIVE_MIGRATION, cluster.hypervisor_type)
    present = take(cluster)
    return relieve(present.snapshot, present.settings, hot)


def _limited(settings: Settings, max_migrations: int) -> Settings:
    return dataclasses.replace(settings, max_migrations=max_migrations) if max_migrations else settings


def chosen(cluster: Cluster, pairs: Sequence[tuple[str, str]], reason: str, *, leave_out: bool = False) -> Plan:
    """The plan whose moves somebody has chosen: (id of the VM, id of the host), in this order.

    leave_out: a move that breaks a rule is left out, and the plan says why, rather than the whole refused.

    Opting out and cooldown hold back the planner, not people. Raises FailedPreconditionError (MOVE_REFUSED) for one
    that breaks a rule when the moves before it have been made, or whose VM or host is not of the cluster.
    """
    rules.need_of_type(Function.LIVE_MIGRATION, cluster.hypervisor_type)
    present = take(cluster)
    for vm_id, host_id in pairs:
        _check(present, cluster, vm_id, host_id)
    placements = Placements(present.snapshot, present.settings)
    using = algorithm(present.settings.algorithm)
    state = State(present.snapshot, present.settings, using)
    names = {host.id: host.name for host in state.hosts}
    places = {vm.id: position for position, vm in enumerate(state.vms)}
    made: list[Move] = []
    left: list[LeftOut] = []
    start = state.imbalance
    for vm_id, host_id in pairs:
        no = placements.refusal(vm_id, host_id, preferred=False)
        if no is not None:
            vm = placements.vms[vm_id]
            if leave_out:
                left.append(LeftOut(vm_id, vm.name, no.code, f"{names[host_id]}: {in_one_word(no)}"))
                continue
            raise _refused(vm.name, names[host_id], in_one_word(no), no.code)
        vm, position, host = placements.vms[vm_id], places[vm_id], state.host_index[host_id]
        before, motion, cost = state.imbalance, state.storage_motion(position, host), state.cost_of(position, host)
        send_bytes = round(state.send_bytes[position]) + (vm.disk_bytes if motion else 0)
        placements.move(vm_id, host_id)
        state.move(position, host)
        after = state.imbalance
        gain = before - after if using.lowers else after - before
        made.append(
            Move(
                vm_id=vm_id,
                vm_name=vm.name,
                source_id=vm.host_id,
                source_name=names[vm.host_id],
                destination_id=host_id,
                destination_name=names[host_id],
                imbalance_before=before,
                imbalance_after=after,
                gain=gain,
                cost=cost,
                cost_bytes=send_bytes,
                storage_motion=motion,
                reason=reason,
            )
        )
    return dataclasses.replace(
        bare(present),
        algorithm="",
        verdict=Verdict.MOVES if made else Verdict.SATISFIED,
        explanation=f"{len(made)} moves: {reason}" if made else "nothing to move",
        imbalance_before=start,
        imbalance_after=state.imbalance,
        moves=tuple(made),
        left_vms=tuple(left),
        broken_after=placements.neighbours.broken(),
        loads=_after(bare(present), state),
    )


def bare(present: Present) -> Plan:
    """Hosts, loads and rules as they are, with no move looked for. Raises as `planner.check_measured`."""
    found = plan(present.snapshot, present.settings, Mode.EVACUATE)
    return dataclasses.replace(found, left_vms=())


def _after(found: Plan, state: State) -> tuple[HostLoad, ...]:
    """The loads with the state's hosts as they are after its moves."""
    rows = []
    cpu, memory = state.shares()
    for load in found.loads:
        position = state.host_index[load.id]
        rows.append(
            dataclasses.replace(
                load,
                vms_after=int((state.at == position).sum()),
                cpu_after=float(cpu[position]),
                memory_after=float(memory[position]),
                value_after=float(state.values[0][position]),
            )
        )
    return tuple(rows)


def _check(present: Present, cluster: Cluster, vm_id: str, host_id: str) -> None:
    vm = next((vm for vm in present.snapshot.vms if vm.id == vm_id), None)
    host = next((host for host in present.snapshot.hosts if host.id == host_id), None)
    if vm is None:
        raise _refused(vm_id, host.name if host else host_id, f"the VM is on no host of cluster {cluster.name}")
    if host is None:
        raise _refused(vm.name, host_id, f"the host is not in cluster {cluster.name}")
    if not vm.movable:
        raise _refused(vm.name, host.name, "the VM does not run, or something works on it")


def _refused(vm: str, host: str, why: str, code: str = "") -> FailedPreconditionError:
    metadata = {"vm": vm, "host": host, **({"refusal": code} if code else {})}
    return FailedPreconditionError(f"VM {vm} cannot move to host {host}: {why}", "MOVE_REFUSED", metadata)
