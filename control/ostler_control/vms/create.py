"""Creating a VM: check, place and record at once; then a workflow creates its root disk and starts it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TypeVar

from ostler_common.errors import AlreadyExistsError, CancelledError
from peewee import ColumnBase, IntegrityError

from ostler_control import labels, settings
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.catalog.sizes import give_maximum
from ostler_control.database import transaction
from ostler_control.hypervisors import registry, rules
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import (
    AffinityMember,
    Host,
    Nic,
    Operation,
    PowerState,
    Vm,
    VmState,
    VmTpm,
    Volume,
    VolumeState,
    new_id,
)
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.operations.records import next_id
from ostler_control.placement import Demand
from ostler_control.scheduling import affinity, capacity, placement_query
from ostler_control.userdata import addressing, vm_user_data
from ostler_control.vms import details, driver_details, firmware_states, isos, tpm
from ostler_control.vms.on_host import FORCE_OFF, UNDEFINE, push_undo_of_start, start_on
from ostler_control.vms.rows import load, set_state
from ostler_control.vms.wanted import Checked, NewVm, check, mac_taken, vm_exists
from ostler_control.volumes import matrix
from ostler_control.volumes.create import create_file, delete_file

_REMOVE_ROOT = "remove-root"
R = TypeVar("R", Vm, Nic)


@dataclass(frozen=True)
class CreateInputs:
    """What `vm.create` is given."""

    host_id: str
    volume_id: str
    iter_time_ms: int
    stopped: bool


def create(wanted: NewVm, user: str, keys: Keyring) -> Operation:
    """Records a new VM with its place, its root disk and that disk's passphrase, and the operation that creates it.

    Raises InvalidArgumentError, AlreadyExistsError, FailedPreconditionError NO_FEASIBLE_HOST or NO_FEASIBLE_POOL,
    ResourceExhaustedError QUOTA_EXCEEDED, and what `wanted.check` and `vm_user_data.assign` raise: then nothing has
    changed.
    """
    with settings.read_once(wanted.account.id):
        return _record(wanted, user, keys)


def _record(wanted: NewVm, user: str, keys: Keyring) -> Operation:
    checked = check(wanted)
    check_quota(wanted.account.id, _resources(wanted, checked))
    operation_id = next_id()
    vm = _record_vm(wanted, checked, operation_id)
    if checked.tpm:
        tpm.add(vm, keys)
    if checked.seed:
        vm_user_data.assign(vm, wanted.user_data, wanted.template, keys)
    place = _place(vm, wanted, checked)
    root = _record_root(vm, wanted, checked, place, keys)
    inputs = CreateInputs(place.host_id, root.id, settings.encryption.LUKS_ITER_TIME.get(), wanted.stopped)
    return record_operation("vm.create", vm, user, inputs, also=[root], operation_id=operation_id)


def _resources(wanted: NewVm, checked: Checked) -> Resources:
    """What the account will own more of: the VM and its root disk."""
    return Resources(
        vms=1,
        cpus=wanted.offering.cpus,
        memory_bytes=wanted.offering.memory_bytes,
        volumes=1,
        storage_bytes=checked.root_size_bytes,
    )


def _record_vm(wanted: NewVm, checked: Checked, operation_id: str) -> Vm:
    vm = _insert_or_raise(
        vm_exists(wanted.account, wanted.name),
        (Vm.account == wanted.account) & (Vm.name == wanted.name),
        Vm,
        name=wanted.name,
        account=wanted.account,
        service_offering=wanted.offering,
        template=wanted.template,
        template_name=wanted.template.name if wanted.template else "",
        cpus=wanted.offering.cpus,
        memory_bytes=wanted.offering.memory_bytes,
        firmware=wanted.boot_firmware,
        operation_id=operation_id,
    )
    for position, nic in enumerate(checked.nics):
        taken = mac_taken(f"nics[{position}]", nic.mac)
        values = {"vm": vm, "position": position, "mac": nic.mac, "network": nic.network, "model": nic.model}
        row = _insert_or_raise(taken, Nic.mac == nic.mac, Nic, **values)
        addressing.record(row.id, nic.addressing)
    if checked.facts.maximum:
        give_maximum(vm)
    if wanted.affinity_groups:
        affinity.put(vm, wanted.affinity_groups)
    isos.add(vm, wanted.isos)
    details.add(vm, wanted.details)
    labels.add(vm, wanted.labels)
    return vm


def _insert_or_raise(taken: AlreadyExistsError, same: ColumnBase, model: type[R], /, **values: object) -> R:
    """A new row; raises `taken` when somebody has inserted the `same` one since the checks. That ends no transaction,
    so it takes no savepoint."""
    row = model(**values)
    if row.insert_unless_taken():
        return row
    if model.select().where(same).exists():
        raise taken
    raise IntegrityError(f"a row of {model.__name__} conflicts with another one")


@dataclass(frozen=True)
class _Place:
    """Where the VM goes. host: of its row only the type, and what its driver reads."""

    host_id: str
    host: Host
    pool_id: str
    pool_type: str


def _place(vm: Vm, wanted: NewVm, checked: Checked) -> _Place:
    """Chooses a host and a pool and claims the host's capacity."""
    pools = placement_query.types_of_pools_for(
        wanted.name,
        0,
        wanted.offering.encrypt_root,
        pool_id=wanted.pool.id if wanted.pool else "",
        zone_id=wanted.zone.id if wanted.zone else "",
        cluster_id=wanted.cluster.id if wanted.cluster else "",
    )
    claimed: list[Host] = []
    demand = _demand(vm, wanted, checked, tuple(pools))
    found = placement_query.find_and_claim(
        vm, demand, lambda row, host_id: claimed.append(capacity.claim_first(row, host_id))
    )
    driver_details.check_on(vm, claimed[-1], has_none=not (wanted.details or checked.facts.driver_details))
    return _Place(found.host_id, claimed[-1], found.pool_ids[0], pools[found.pool_ids[0]])


def _demand(vm: Vm, wanted: NewVm, checked: Checked, pools: tuple[str, ...]) -> Demand:
    return placement_query.demand_of(
        vm,
        # Its root disk has no row yet.
        {Volume: False, VmTpm: checked.tpm, Nic: checked.nics, AffinityMember: wanted.affinity_groups},
        volume_encryption=wanted.offering.encrypt_root,
        hypervisor_type=wanted.template.hypervisor_type if wanted.template else "",
        allowed_types=rules.allowed(),
        formats=frozenset({wanted.template.format} if wanted.template else ()),
        pool_choices=(pools,),
        zone_id=wanted.zone.id if wanted.zone else "",
        cluster_id=wanted.cluster.id if wanted.cluster else "",
        host_id=wanted.host.id if wanted.host else "",
    )


def _record_root(vm: Vm, wanted: NewVm, checked: Checked, place: _Place, keys: Keyring) -> Volume:
    volume_id = new_id()
    root = Volume(
        id=volume_id,
        name=wanted.root_name,
        account=wanted.account,
        pool=place.pool_id,
        file_id=volume_id,
        template=wanted.template,
        passphrase=keys.create(volume_id) if wanted.offering.encrypt_root else None,
        size_bytes=checked.root_size_bytes,
        format=_root_format(place.host),
        root=True,
        vm_id=vm.id,
        slot=0,
        operation_id=vm.operation_id,
    )
    taken = checked.facts.root_name_taken
    if taken or not root.insert_unless_taken():  # somebody has taken the name since it was looked for
        root.name = f"{root.name}-{secrets.token_hex(3)}"
        root.save(force_insert=True)
    operation = matrix.Operation.CREATE_FROM_TEMPLATE if wanted.template else matrix.Operation.CREATE
    matrix.check_in(place.pool_type, operation, root, False)
    return root


def _root_format(host: Host) -> str:
    """qcow2 on every hypervisor that supports it, because it allocates on demand."""
    formats = registry.split(host.template_formats)
    return min(formats) if formats and "qcow2" not in formats else "qcow2"


@workflow("vm.create")
def _create(run: Run) -> None:
    inputs = run.read(CreateInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        undo.push(_REMOVE_ROOT, lambda: delete_file(run, inputs.host_id, inputs.volume_id))
        share = (0, 95 if inputs.stopped else 70)
        run.step("root", lambda: create_file(run, inputs.host_id, inputs.volume_id, inputs.iter_time_ms, share))
        if inputs.stopped:
            run.step("stopped", lambda: _leave_stopped(run.resource_id))
            return
        push_undo_of_start(run, undo, inputs.host_id)
        kept: bool = run.step("start", lambda: start_on(run, inputs.host_id, (70, 100)))
    firmware_states.keep_step(run, inputs.host_id, kept)


def _leave_stopped(vm_id: str) -> None:
    with transaction():
        capacity.release(load(vm_id))
        set_state(vm_id, VmState.STOPPED, power_state=PowerState.STOPPED)


def _record_failure(run: Run, undo: Undo) -> None:
    """Releases the capacity of a VM that is certainly off its host; one that may still be there keeps it until somebody
    deletes the VM. A cancelled creation that left nothing behind leaves no row either."""
    with transaction():
        vm = load(run.resource_id)
        root = Volume.get_or_none(Volume.id == run.read(CreateInputs).volume_id)
        off = not undo.failed(FORCE_OFF, UNDEFINE)
        clean = off and not undo.failed(_REMOVE_ROOT)
        if off:
            capacity.release(vm)
        if root is not None and clean:
            delete_volume(root, run.user, run.id)
        elif root is not None:
            Volume.update(state=VolumeState.FAILED, state_reason=str(undo.error)).where(Volume.id == root.id).execute()
        if clean and isinstance(undo.error, CancelledError):
            vm_user_data.forget_all(vm.id)
            tpm.forget(vm.id)
            firmware_states.forget(vm.id)
            Vm.delete().where(Vm.id == vm.id).execute()
        else:
            power_state = PowerState.ABSENT if off else PowerState.UNKNOWN
            set_state(vm.id, VmState.FAILED, power_state=power_state, attention=f"not created: {undo.error}")
