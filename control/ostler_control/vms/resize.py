"""Changing a VM's service offering: its rows while it is stopped, its CPUs and memory while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import MEMORY_STEP_BYTES, Function
from ostler_common.units import format_size

from ostler_control.catalog import driver_details
from ostler_control.catalog.offerings import extra_configs_of
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.catalog.sizes import NO_SIZE, Size, maximum_of, size_of
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Operation, ServiceOffering, Vm, Volume
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.placement import Demand
from ostler_control.scheduling import capacity, placement_query
from ostler_control.vms import wire
from ostler_control.vms.rows import load, set_attention
from ostler_control.volumes.rows import running_host

_RESTORE = "restore"
_ATTENTION = "its size is"


@dataclass(frozen=True)
class ResizeInputs:
    """host_id: where the VM runs, "" when it is stopped; old_*: what it had before."""

    host_id: str
    cpus: int
    memory_bytes: int
    old_offering_id: str
    old_cpus: int
    old_memory_bytes: int


def resize(vm: Vm, offering: ServiceOffering, user: str) -> Operation:
    """Records the operation that gives a VM another service offering, and claims what it gets more.

    Raises FailedPreconditionError VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED, OFFERING_ENCRYPTION,
    RESIZE_NEEDS_STOP, NO_FEASIBLE_HOST; ResourceExhaustedError QUOTA_EXCEEDED; then nothing has changed.
    """
    vm = lock_row(vm)
    host = running_host(vm)
    _check_encryption(vm, offering)
    old, new = size_of(vm), size_of(offering)
    more = Size(max(new.cpus - old.cpus, 0), max(new.memory_bytes - old.memory_bytes, 0))
    if host is not None:
        rules.need(Function.LIVE_RESIZE, host)
        _check_live(vm, offering)
    check_quota(vm.account_id, Resources(cpus=more.cpus, memory_bytes=more.memory_bytes))
    inputs = ResizeInputs(host.id if host else "", *new, vm.service_offering_id, *old)
    if host is not None:
        _claim(vm, host, new, more)
    else:
        capacity.resize(vm, *new)
    Vm.update(service_offering=offering).where(Vm.id == vm.id).execute()
    return record_operation("vm.resize", vm, user, inputs)


def _check_encryption(vm: Vm, offering: ServiceOffering) -> None:
    root = Volume.get_or_none((Volume.vm_id == vm.id) & Volume.root)
    if root is None or (root.passphrase_id is not None) == bool(offering.encrypt_root):
        return
    kind, other = ("plain", "encrypts") if offering.encrypt_root else ("encrypted", "does not encrypt")
    raise FailedPreconditionError(
        f"the root disk of VM {vm.name} is {kind}, and offering {offering.name} {other} root disks "
        "(choose one like the disk; `ostler volume encrypt` encrypts a plain disk)",
        "OFFERING_ENCRYPTION",
        {"vm": vm.id},
    )


def _check_live(vm: Vm, offering: ServiceOffering) -> None:
    """Raises FailedPreconditionError RESIZE_NEEDS_STOP for what a running VM cannot get."""
    had, wanted, most = size_of(vm), size_of(offering), maximum_of(vm)
    problem = ""
    if wanted.cpus < had.cpus or wanted.memory_bytes < had.memory_bytes:
        problem = f"cannot lose CPUs or memory while it runs; it has {_text(had)}"
    elif wanted.cpus > most.cpus or wanted.memory_bytes > most.memory_bytes:
        problem = f"may have at most {_text(most)} until it stops"
    elif (wanted.memory_bytes - had.memory_bytes) % MEMORY_STEP_BYTES:
        problem = f"gets memory only in steps of {format_size(MEMORY_STEP_BYTES)} while it runs"
    elif _settings_of(vm.service_offering_id) != _settings_of(offering.id):
        problem = "cannot get the extra configuration and details of the offering while it runs"
    if problem:
        raise FailedPreconditionError(
            f"VM {vm.name} {problem} (stop it with `ostler vm stop {vm.name}`, resize it, and start it)",
            "RESIZE_NEEDS_STOP",
            {"vm": vm.id},
        )


def _settings_of(offering_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """What an offering gives to its VMs beside the size."""
    ids = [offering_id]
    return extra_configs_of(ids).get(offering_id, {}), driver_details.of_offerings(ids).get(offering_id, {})


def _claim(vm: Vm, host: Host, new: Size, more: Size) -> None:
    """Claims what a running VM gets more, on the host where it is. Raises FailedPreconditionError NO_FEASIBLE_HOST."""
    if more == NO_SIZE:
        capacity.resize(vm, *new)
        return
    demand = Demand(name=vm.name, cpus=more.cpus, memory_bytes=more.memory_bytes, host_id=host.id)
    try:
        placement_query.find_and_claim(vm, demand, lambda row, _: capacity.resize(row, *new))
    except FailedPreconditionError as error:
        if error.reason != "NO_FEASIBLE_HOST":
            raise
        raise FailedPreconditionError(
            f"the host of VM {vm.name} has no room for {_text(more)} more: {error.message.partition(': ')[2]} "
            "(migrate the VM to another host first, or stop it, resize it, and start it)",
            error.reason,
            error.metadata,
        ) from None


def _text(size: Size) -> str:
    return f"{size.cpus} {'CPU' if size.cpus == 1 else 'CPUs'} and {format_size(size.memory_bytes)} of memory"


@workflow("vm.resize")
def _resize(run: Run) -> None:
    inputs = run.read(ResizeInputs)
    if not inputs.host_id:
        return
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        undo.push(_RESTORE, lambda: _restore(run, inputs))
        run.step("resize", lambda: _resize_on_host(run, inputs))
        run.step("record", lambda: _forget_attention(run.resource_id))


def _resize_on_host(run: Run, inputs: ResizeInputs) -> None:
    request = agent_pb2.ResizeVmRequest(
        operation=run.ref(), vm_id=run.resource_id, cpus=inputs.cpus, memory_bytes=inputs.memory_bytes
    )
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.ResizeVm, request)


def _restore(run: Run, inputs: ResizeInputs) -> None:
    """Records the size that the VM has in truth, and releases the rest of the claim."""
    info = wire.ask(run.agents, address_of(inputs.host_id), run.resource_id)
    old = Size(inputs.old_cpus, inputs.old_memory_bytes)
    # A VM cannot shrink while it runs: what it got by half it keeps, and what the host says beyond that is not true.
    has = Size(
        min(max(info.cpus, old.cpus), inputs.cpus), min(max(info.memory_bytes, old.memory_bytes), inputs.memory_bytes)
    )
    with transaction():
        vm = load(run.resource_id)
        capacity.resize(vm, *has)
        if has != Size(inputs.cpus, inputs.memory_bytes):
            Vm.update(service_offering=inputs.old_offering_id).where(Vm.id == vm.id).execute()
        if has != old:
            set_attention(vm.id, f"{_ATTENTION} {_text(has)}, not that of its offering; resize it again")


def _record_failure(run: Run, undo: Undo) -> None:
    # It is not known what the VM has: the larger claim stays, and another resize works in either case.
    if undo.failed(_RESTORE):
        set_attention(run.resource_id, f"{_ATTENTION} not known: {undo.error}; resize it again")


def _forget_attention(vm_id: str) -> None:
    """What an earlier resize left behind is over."""
    with transaction():
        Vm.update(attention="").where((Vm.id == vm_id) & Vm.attention.startswith(_ATTENTION)).execute()
