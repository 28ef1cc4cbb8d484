"""What a workflow has a host do with the operation's VM. Each function is called inside a step and is idempotent."""

from __future__ import annotations

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import job_pb2
from ostler_common.errors import OstlerError

from ostler_control.agents import power_states
from ostler_control.catalog.firmware import is_uefi
from ostler_control.database import transaction
from ostler_control.hosts import absences, cpus, late_starts
from ostler_control.hosts.rows import address_and_state, address_of, record_heard
from ostler_control.models import HostState, PowerState, VmSnapshotMemory, VmState
from ostler_control.operations import Run, Undo
from ostler_control.userdata import vm_user_data
from ostler_control.vms import firmware_states, isos, machines, wire
from ostler_control.vms.rows import load_with_disks, set_state
from ostler_control.volumes import wire as volume_wire

# The undo steps of a start; `Undo.failed` asks for them by name.
FORCE_OFF, UNDEFINE = "force-off", "undefine"


def start_on(run: Run, host_id: str, share: tuple[int, int] = (0, 100), memory: VmSnapshotMemory | None = None) -> bool:
    """Inside a step: has a host start the VM, and records that it runs; returns whether its firmware keeps
    anything there.

    share: the part of the operation's progress, percent; memory: its guest continues from it.
    """
    vm, disks = load_with_disks(run.resource_id)
    spec = wire.spec(vm, run.keys, disks=disks)
    if spec.HasField("seed"):
        vm_user_data.check_host(vm.id, host_id)
    if spec.cdroms:
        isos.check_host(vm.id, host_id)
    if spec.machine:
        spec.machine = machines.at_start_of(run.id, vm.id)
    is_kept = is_uefi(vm.firmware) or spec.HasField("tpm")
    state = firmware_states.to_wire(vm, host_id, run.keys) if is_kept else None
    if state is not None:
        spec.firmware_state.CopyFrom(state)
    common = cpus.at_start_of(run.id, host_id)
    spec.cluster_cpus.extend(common.to_wire())
    request = agent_pb2.StartVmRequest(operation=run.ref(), spec=spec)
    if memory is not None:
        request.memory.CopyFrom(volume_wire.keyed_ref(memory, run.keys))

    update = start_job(run, host_id, request, share)
    power_state = power_states.power_state(update.vm.power_state) or PowerState.RUNNING

    def write() -> None:
        machines.keep(vm.id, update.vm.machine)
        if state is not None:
            firmware_states.record_placed(vm.id)
        cpus.keep(vm, common if memory is None else cpus.common_of(memory.cpus))
        set_state(vm.id, VmState.RUNNING, power_state=power_state, last_host=host_id)

    run.defer_write(write)
    return is_kept


def start_job(run: Run, host_id: str, request: agent_pb2.StartVmRequest, share: tuple[int, int]) -> job_pb2.JobUpdate:
    """Inside a step: has a host start the VM. If the host is fenced meanwhile, its proof says nothing of this VM."""

    def note() -> None:
        late_starts.note(run.resource_id, host_id, request.operation.id)

    def note_now() -> None:
        with transaction():
            note()

    def hear() -> None:
        # Before the job's end, so that it is known at once that the host is back.
        with transaction():
            record_heard(host_id)

    host, host_state = address_and_state(host_id)
    was_lost = host_state is HostState.FENCED
    if was_lost:
        note_now()
    try:
        update = run.job(host, lambda agent: agent.vms.StartVm, request, share, on_return=hear, was_lost=was_lost)
    except OstlerError:
        note_now()
        raise
    run.defer_write(note)
    return update


def push_undo_of_start(run: Run, undo: Undo, host_id: str) -> None:
    """Before a first start: its undo forces the VM off and then deletes its definition."""
    undo.push(UNDEFINE, lambda: undefine(run, host_id))
    undo.push(FORCE_OFF, lambda: force_off(run, host_id))


def force_off(run: Run, host_id: str) -> None:
    """Powers the VM off at once; succeeds when it does not run there."""
    request = agent_pb2.StopVmRequest(operation=run.ref(), vm_id=run.resource_id, timeout_s=0)
    update = run.job(address_of(host_id), lambda agent: agent.vms.StopVm, request)
    run.defer_write(lambda: absences.record(run.resource_id, host_id, update.vm))


def undefine(run: Run, host_id: str) -> None:
    """Deletes the stopped VM's definition on a host; succeeds when there is none."""
    request = agent_pb2.DeleteVmRequest(operation=run.ref(), vm_id=run.resource_id)
    run.job(address_of(host_id), lambda agent: agent.vms.DeleteVm, request)
