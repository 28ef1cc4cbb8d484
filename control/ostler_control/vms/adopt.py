"""Adoption: a VM that another tool has defined on a managed host comes under Ostler. Its guest runs on, untouched.

The host describes the VM before anything is recorded. What cannot be mapped refuses it, or is accepted by name: it is
lost when the VM starts the next time.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from ostler.agent.v1 import adoption_pb2 as pb
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_common.errors import AbortedError, AlreadyExistsError, FailedPreconditionError, bad_field
from ostler_common.hypervisors import Function

from ostler_control import networks
from ostler_control.agents import Agents, power_states
from ostler_control.catalog.firmware import SECURE_BOOT
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address, address_of, is_up, silent
from ostler_control.hypervisors import rules
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import (
    Account,
    Host,
    Nic,
    Operation,
    Pool,
    PowerState,
    ServiceOffering,
    Vm,
    VmOrigin,
    VmState,
    Volume,
    VolumeState,
    new_id,
)
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.scheduling import capacity
from ostler_control.vms.rows import disks_of, load, set_state
from ostler_control.volumes import wire
from ostler_control.volumes.adopt import check_unknown

_INSPECT_S = 60.0
_MAX_NAME = 255
_FORMATS = {number: name for name, number in wire.FORMATS.items()}


@dataclass(frozen=True)
class NewVmAdoption:
    """A VM to adopt. vm: its UUID or the hypervisor's name; name "": that name; offering None: the smallest that fits;
    accept_losses: what cannot be mapped may be lost at its next start."""

    host: Host
    vm: str
    account: Account
    name: str = ""
    offering: ServiceOffering | None = None
    accept_losses: bool = False


@dataclass(frozen=True)
class AdoptedFile:
    """A volume and the name that its file had."""

    volume_id: str
    file_name: str


@dataclass(frozen=True)
class AdoptInputs:
    """What `vm.adopt` is given."""

    host_id: str
    files: tuple[AdoptedFile, ...]


def inspect_vm(wanted: NewVmAdoption, agents: Agents) -> pb.InspectVmResponse:
    """Has the host describe the VM: call it outside of transactions.

    Raises InvalidArgumentError; NotFoundError VM_NOT_FOUND; FailedPreconditionError FUNCTION_NOT_SUPPORTED,
    HOST_SILENT.
    """
    if not 0 < len(wanted.vm) <= _MAX_NAME or not wanted.vm.isprintable():
        raise bad_field("vm", f"must be 1 to {_MAX_NAME} printable characters", "INVALID_NAME")
    with session():
        rules.need(Function.ADOPTION, wanted.host)
        if not is_up(wanted.host):
            raise silent(wanted.host, "so that its VMs are not known")
        host = address(wanted.host)
    return agents.call(host, lambda agent: agent.adoption.InspectVm, pb.InspectVmRequest(vm=wanted.vm), _INSPECT_S)


def adopt(wanted: NewVmAdoption, found: pb.InspectVmResponse, user: str) -> Operation:
    """Records a VM as its host described it, with its volumes, and the operation that adopts it.

    Raises FailedPreconditionError: VM_KNOWN, VM_MANAGED, ADOPTION_REFUSED with all that cannot be mapped,
    ADOPTION_LOSSES with what would be lost, NO_OFFERING, OFFERING_TOO_SMALL, ENCRYPTION_MISMATCH, VOLUME_KNOWN,
    NO_NETWORK, HOST_FULL; AlreadyExistsError VM_EXISTS, MAC_TAKEN; ResourceExhaustedError QUOTA_EXCEEDED.
    """
    name = check_name("name", wanted.name or found.name)
    _check(wanted, found, name)
    sizes = sum(disk.size_bytes for disk in found.disks)
    check_quota(
        wanted.account.id,
        Resources(
            vms=1, cpus=found.cpus, memory_bytes=found.memory_bytes, volumes=len(found.disks), storage_bytes=sizes
        ),
    )
    vm = Vm.create(
        id=found.vm_id,
        name=name,
        account=wanted.account,
        service_offering=_offering(wanted, found),
        cpus=found.cpus,
        memory_bytes=found.memory_bytes,
        firmware=_firmware(wanted.host, found),
        hypervisor_type=wanted.host.hypervisor_type,
    )
    for position, nic in enumerate(found.nics):
        if Nic.select().where(Nic.mac == nic.mac).exists():
            raise AlreadyExistsError(f"another network interface has the address {nic.mac}", "MAC_TAKEN")
        network = networks.find_on_bridge(wanted.host.cluster.zone_id, nic.bridge, wanted.account)
        Nic.create(vm=vm, position=position, mac=nic.mac, network=network, model=nic.model)
    VmOrigin.create(vm=vm, source_name=wanted.host.name, source_vm=found.name, source_ref=found.vm_id)
    _claim(vm, wanted.host)
    volumes = [_volume(vm, disk, min(d.slot for d in found.disks)) for disk in found.disks]
    files = tuple(AdoptedFile(volume.id, disk.file_name) for volume, disk in zip(volumes, found.disks, strict=True))
    return record_operation("vm.adopt", vm, user, AdoptInputs(wanted.host.id, files), also=volumes)


def _firmware(host: Host, found: pb.InspectVmResponse) -> str:
    if found.firmware != types_pb2.FIRMWARE_UEFI:
        return "bios"
    return SECURE_BOOT if found.secure_boot and rules.supports(Function.SECURE_BOOT, host) else "uefi"


def _claim(vm: Vm, host: Host) -> None:
    try:
        capacity.claim(vm, host.id)
    except AbortedError as error:
        if error.reason != "HOST_TAKEN":
            raise
        raise FailedPreconditionError(
            f"host {host.name} has no room for {vm.cpus} CPUs and {vm.memory_bytes >> 20} MiB of memory, or takes no "
            "VMs (is it enabled, and not in maintenance?)",
            "HOST_FULL",
            {"host": host.name},
        ) from None


def _check(wanted: NewVmAdoption, found: pb.InspectVmResponse, name: str) -> None:
    if Vm.select().where(Vm.id == found.vm_id).exists():
        raise FailedPreconditionError(f"{found.name} is a VM of the fleet already", "VM_KNOWN")
    if found.managed:
        raise FailedPreconditionError(f"{found.name} is managed by another Ostler", "VM_MANAGED")
    if Vm.select().where((Vm.account == wanted.account) & (Vm.name == name)).exists():
        raise AlreadyExistsError(
            f"account {wanted.account.name} has a VM named {name} already; choose another name", "VM_EXISTS"
        )
    errors = [problem for problem in found.problems if problem.refuses]
    if not found.disks and not errors:
        raise FailedPreconditionError(f"{found.name} has no disk", "ADOPTION_REFUSED")
    if errors:
        raise _problems(found, errors, "cannot be adopted", "ADOPTION_REFUSED")
    if found.problems and not wanted.accept_losses:
        raise _problems(
            found, found.problems, "would lose this at its next start (--accept-losses adopts it all the same)",
            "ADOPTION_LOSSES",
        )  # fmt: skip
    for disk in found.disks:
        check_unknown(Pool.get_by_id(disk.pool_id), disk.file_name)


def _problems(
    found: pb.InspectVmResponse, problems: Sequence[pb.InspectVmResponse.Problem], what: str, reason: str
) -> FailedPreconditionError:
    told = "; ".join(problem.text for problem in problems)
    codes = ",".join(sorted({problem.code for problem in problems}))
    return FailedPreconditionError(f"VM {found.name} {what}: {told}", reason, {"problems": codes})


def _offering(wanted: NewVmAdoption, found: pb.InspectVmResponse) -> ServiceOffering:
    """The one that was named, else the smallest in which the VM fits."""
    if wanted.offering is not None:
        if wanted.offering.encrypt_root:
            raise FailedPreconditionError(
                f"the VM's disks are not encrypted, unlike those of offering {wanted.offering.name}",
                "ENCRYPTION_MISMATCH",
            )
        if wanted.offering.cpus < found.cpus or wanted.offering.memory_bytes < found.memory_bytes:
            raise FailedPreconditionError(
                f"VM {found.name} has {found.cpus} CPUs and {found.memory_bytes >> 20} MiB of memory, more than "
                f"offering {wanted.offering.name}",
                "OFFERING_TOO_SMALL",
            )
        return wanted.offering
    fits = (
        ServiceOffering.retire_time.is_null()
        & ~ServiceOffering.encrypt_root
        & (ServiceOffering.cpus >= found.cpus)
        & (ServiceOffering.memory_bytes >= found.memory_bytes)
    )
    order = (ServiceOffering.cpus, ServiceOffering.memory_bytes, ServiceOffering.name)
    smallest: ServiceOffering | None = ServiceOffering.select().where(fits).order_by(*order).first()
    if smallest is None:
        raise FailedPreconditionError(
            f"no service offering without encryption has {found.cpus} CPUs and {found.memory_bytes >> 20} MiB of "
            "memory; create one (ostler offering create-service)",
            "NO_OFFERING",
        )
    return smallest


def _volume(vm: Vm, disk: pb.InspectVmResponse.Disk, root_slot: int) -> Volume:
    name = f"{vm.name[:50]}-{'root' if disk.slot == root_slot else f'disk{disk.slot}'}"
    taken = Volume.select().where((Volume.account == vm.account_id) & (Volume.name == name)).exists()
    return Volume.create(
        name=f"{name}-{new_id()[:6]}" if taken else name,
        account=vm.account_id,
        pool=disk.pool_id,
        file_id=disk.file_name if _is_uuid(disk.file_name) else new_id(),
        size_bytes=disk.size_bytes,
        format=_FORMATS[disk.format],
        encrypt_format="none",
        root=disk.slot == root_slot,
        vm_id=vm.id,
        slot=disk.slot,
    )


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


@workflow("vm.adopt")
def _adopt(run: Run) -> None:
    inputs = run.read(AdoptInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo, inputs))
        undo.push("release", lambda: _release(run, inputs))
        run.step("adopt", lambda: _adopt_on(run, inputs))


def _disks(inputs: AdoptInputs) -> list[pb.AdoptedDisk]:
    with session():
        return [
            pb.AdoptedDisk(volume=wire.plain_ref(Volume.get_by_id(file.volume_id)), file_name=file.file_name)
            for file in inputs.files
        ]


def _adopt_on(run: Run, inputs: AdoptInputs) -> None:
    vm = load(run.resource_id)
    request = pb.AdoptVmRequest(operation=run.ref(), vm_id=vm.id, title=vm.name, disks=_disks(inputs))
    update = run.job(address_of(inputs.host_id), lambda agent: agent.adoption.AdoptVm, request)
    power_state = power_states.power_state(update.vm.power_state) or PowerState.UNKNOWN
    with transaction():
        ids = [file.volume_id for file in inputs.files]
        Volume.update(state=VolumeState.READY, state_reason="").where(Volume.id.in_(ids)).execute()
        if power_state is PowerState.STOPPED:
            capacity.release(load(vm.id))
        state = VmState.STOPPED if power_state is PowerState.STOPPED else VmState.RUNNING
        set_state(vm.id, state, power_state=power_state, last_host=inputs.host_id)


def _release(run: Run, inputs: AdoptInputs) -> None:
    request = pb.ReleaseVmRequest(operation=run.ref(), vm_id=run.resource_id, disks=_disks(inputs))
    run.job(address_of(inputs.host_id), lambda agent: agent.adoption.ReleaseVm, request)


def _record_failure(run: Run, undo: Undo, inputs: AdoptInputs) -> None:
    """The rows go: the VM is again what it was. When its host could not be asked they stay, so that it can be
    unmanaged."""
    with transaction():
        if undo.failed("release"):
            set_state(
                run.resource_id, VmState.RUNNING, power_state=PowerState.UNKNOWN, attention=f"not adopted: {undo.error}"
            )
            ids = [file.volume_id for file in inputs.files]
            Volume.update(state=VolumeState.READY).where(Volume.id.in_(ids)).execute()
            return
        forget(run.resource_id, run.user, run.id)


def forget(vm_id: str, user: str, operation_id: str) -> None:
    """Deletes the rows of a VM that is not Ostler's any more, and of its volumes: within the caller's transaction.

    operation_id: of the operation that does it.
    """
    vm = Vm.get_or_none(Vm.id == vm_id)
    if vm is None:
        return
    for volume in disks_of(vm.id):
        delete_volume(volume, user, operation_id)
    capacity.release(vm)
    vm.delete_instance()
