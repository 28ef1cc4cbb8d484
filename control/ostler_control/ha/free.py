"""Takes VMs off a host that is proved off, so that they may start elsewhere, and gives the host back when it returns.

Every function is one transaction and idempotent: it is called again and again while the host is off, because VMs that
an operation held at first are free later.
"""

from __future__ import annotations

from ostler_control import events
from ostler_control.database import locked, transaction
from ostler_control.ha import priorities
from ostler_control.ha.ended import Ended
from ostler_control.models import (
    FenceState,
    Host,
    HostFence,
    HostSilence,
    HostState,
    LateStart,
    PowerState,
    Priority,
    Vm,
    VmRestart,
    VmSighting,
    VmState,
    now,
)
from ostler_control.scheduling import capacity
from ostler_control.states import OFF_POWER_STATES
from ostler_control.vms.rows import set_state


def free_vms(host_id: str, ended: Ended = frozenset()) -> int:
    """Records the VMs of a host that is proved off as stopped, releases their capacity, and queues the restart of the
    protected ones; returns how many.

    Leaves a VM that an operation holds, and one that may have started there since. When the host is heard again, it
    frees only VMs that it reports as not running, and only those of `ended`: it has also answered so, and their rows
    have not changed since it was asked.
    """
    with transaction():
        host = Host.get_or_none((Host.id == host_id) & ~Host.removed)
        fence = locked(HostFence.select().where(HostFence.host == host_id, HostFence.state == FenceState.OFF)).first()
        if host is None or fence is None:
            return 0
        heard = fence.heard
        query = Vm.select().where(Vm.host == host.id, Vm.operation_id == "", Vm.state == VmState.RUNNING)
        late = LateStart.select(LateStart.vm).where(LateStart.host == host.id)
        query = query.where(Vm.power_state.in_(OFF_POWER_STATES) if heard else Vm.id.not_in(late))
        # Locked: the operation that fences and the monitor are here at once, and a VM may be running elsewhere by now.
        vms = [vm for vm in locked(query.order_by(Vm.id)) if not heard or (vm.id, vm.state_time) in ended]
        found = priorities.of_vms([vm.id for vm in vms])
        for vm in vms:
            _free(vm, host, found[vm.id])
        if heard:  # the host itself has said that no start of them is under way
            LateStart.delete().where(LateStart.host == host.id, LateStart.vm.in_([vm.id for vm in vms])).execute()
        else:
            VmSighting.delete().where(VmSighting.host == host.id).execute()
            stopped = (Vm.last_host == host.id) & Vm.host.is_null() & (Vm.state == VmState.STOPPED)
            Vm.update(power_state=PowerState.ABSENT, last_host=None, attention="").where(
                stopped & (Vm.operation_id == "")
            ).execute()
        return len(vms)


def _free(vm: Vm, host: Host, priority: Priority) -> None:
    capacity.release(vm)
    # Not its last host any more: its definition there is not to be touched when it starts.
    set_state(vm.id, VmState.STOPPED, power_state=PowerState.ABSENT, last_host=None)
    what = "is stopped"
    if priority is not Priority.OFF:
        # There may be one of an earlier loss, whose start has just succeeded, and of which nobody has taken note.
        anew = {"lost_host_id": host.id, "priority": priority, "operation_id": "", "next_time": now()}
        VmRestart.insert(vm=vm, **anew).on_conflict(conflict_target=[VmRestart.vm], update=anew).execute()
        what = f"restarts on another host (priority {priority})"
    events.record(
        "vm.host-off",
        events.Outcome.NOTICED,
        events.SYSTEM,
        "vm",
        vm.id,
        vm.name,
        f"its host {host.name} is proved off: it {what}",
        account_id=str(vm.account_id),
    )


def is_in_doubt(host_id: str) -> bool:
    """Whether a host is not to be given back yet; within the caller's transaction.

    It is not proved off or not heard again, it is silent now, an operation holds a VM that is placed there, it has not
    reported the power state of one, or it runs a VM that is placed elsewhere.
    """
    if not HostFence.select().where(HostFence.host == host_id, HostFence.has_returned()).exists():
        return True
    if HostSilence.select().where(HostSilence.host == host_id).exists():
        return True
    placed = (Vm.host == host_id) | (Vm.destination == host_id)
    unknown = (Vm.operation_id != "") | (Vm.state == VmState.MIGRATING) | ~Vm.power_state.in_(_EXECUTING)
    if Vm.select().where(placed & unknown & (Vm.state != VmState.FAILED)).exists():
        return True
    return bool(VmSighting.select().where(VmSighting.host == host_id).exists())


def take_back(host_id: str) -> bool:
    """Ends the fencing of a host that is not in doubt; returns whether it did."""
    with transaction():
        host = Host.get_or_none((Host.id == host_id) & ~Host.removed)
        if host is None or is_in_doubt(host_id):
            return False
        HostFence.delete().where(HostFence.host == host.id).execute()
        LateStart.delete().where(LateStart.host == host.id).execute()
        Host.update(state=HostState.UP, state_reason="", state_time=now()).where(Host.id == host.id).execute()
        events.record(
            "host.fence.end",
            events.Outcome.NOTICED,
            events.SYSTEM,
            "host",
            host.id,
            host.name,
            f"host {host.name} is back: VMs may be placed on it again",
        )
        return True


_EXECUTING = (PowerState.RUNNING, PowerState.PAUSED)
