"""Reinstalling a stopped VM: a new root disk made from a template, with a key of its own, replaces the old one."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError

from ostler_control import settings
from ostler_control.catalog.firmware import SECURE_BOOT, is_uefi
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Template, Vm, VmState, new_id
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.templates.store import check_encryption
from ostler_control.userdata import vm_user_data
from ostler_control.userdata.vm_user_data import Given
from ostler_control.vms.rows import disks_of, wrong_state
from ostler_control.volumes import files, matrix, wire
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.new_volume import MIB
from ostler_control.volumes.rows import running_host


@dataclass(frozen=True)
class ReinstallInputs:
    """What `vm.reinstall` is given: the root volume, its new file and its old one, and the template.

    has_user_data: whether user data is staged for the reinstalled VM.
    """

    volume_id: str
    file_id: str
    old_file_id: str
    template_id: str
    iter_time_ms: int
    has_user_data: bool = False


def reinstall(
    vm: Vm, user: str, keys: Keyring, template: Template | None = None, given: Given | None = None
) -> Operation:
    """Records the operation that gives a stopped VM a new root disk; the data on the old one is lost, with its key.

    template None: the one that the VM was created from; given: what its guest gets, None for the same again. The disk
    keeps its pool, and its size unless the template is larger; it is encrypted if it was, or if the VM's offering wants
    it.
    Raises FailedPreconditionError: VM_RUNNING, VM_STATE, NO_TEMPLATE, TEMPLATE_TYPE, TEMPLATE_FIRMWARE,
    TEMPLATE_ENCRYPTED, VOLUME_STATE, NO_FEASIBLE_POOL, NO_CAPABLE_HOST; and what `vm_user_data.stage` raises.
    """
    vm = lock_row(vm)
    root = next((disk for disk in disks_of(vm.id) if disk.root), None)
    if root is None:
        raise wrong_state(vm, "whole")
    root = lock_row(root)
    matrix.check(matrix.Operation.REINSTALL, root, vm.state is VmState.RUNNING)
    running_host(vm)
    check_ready(root)
    source = _template(vm, template)
    encrypted = bool(root.passphrase_id or vm.service_offering.encrypt_root)
    check_encryption(source, encrypted)
    choose_host(root.pool, encrypted, lambda _: 0)
    operation_id = new_id()
    size_bytes = max(root.size_bytes, -(-source.virtual_size_bytes // MIB) * MIB)
    file = files.record_file(root, operation_id, keys, encrypted=encrypted, size_bytes=size_bytes)
    has_user_data = vm_user_data.stage(vm, given, source, keys, operation_id)
    iter_time_ms = settings.encryption.LUKS_ITER_TIME.get()
    inputs = ReinstallInputs(root.id, file.id, root.file_id, source.id, iter_time_ms, has_user_data)
    return record_operation("vm.reinstall", vm, user, inputs, also=[root], operation_id=operation_id)


def _template(vm: Vm, wanted: Template | None) -> Template:
    template = wanted or vm.template
    if template is None:
        raise FailedPreconditionError(
            f"template {vm.template_name}, which VM {vm.name} was created from, is deleted; name another", "NO_TEMPLATE"
        )
    if template.hypervisor_type and vm.hypervisor_type not in ("", template.hypervisor_type):
        raise FailedPreconditionError(
            f"template {template.name} is for hypervisors of type {rules.name_of(template.hypervisor_type)}, and VM "
            f"{vm.name} runs on those of type {rules.name_of(vm.hypervisor_type)}",
            "TEMPLATE_TYPE",
        )
    if is_uefi(vm.firmware) and is_uefi(template.firmware) and vm.firmware != template.firmware:
        secure = f"(ostler vm set-firmware {vm.name} --firmware uefi-secure-boot)"
        plain = f"(ostler vm set-firmware {vm.name} --firmware uefi)"
        raise FailedPreconditionError(
            f"template {template.name} boots with {template.firmware.replace('_', '-')}, and the UEFI variables of VM "
            f"{vm.name} are those of another firmware; give it new ones first "
            + (secure if template.firmware == SECURE_BOOT else plain),
            "TEMPLATE_FIRMWARE",
            {"vm": vm.id},
        )
    return template


@workflow("vm.reinstall")
def _reinstall(run: Run) -> None:
    inputs = run.read(ReinstallInputs)
    with run.undoing() as undo:
        undo.push("forget", lambda: _forget_staged(run))
        undo.push("discard", lambda: files.remove(run, inputs.file_id))
        host_id = run.step("choose", lambda: _choose(run, inputs))
        run.step("fill", lambda: _fill(run, inputs, host_id))
        undo.clear()
    run.always("switch", lambda: _switch(run, inputs))
    files.remove_old(run, inputs.old_file_id)


def _choose(run: Run, inputs: ReinstallInputs) -> str:
    with session():
        file = files.load(inputs.file_id)
        host_id: str = choose_host(file.pool, bool(file.passphrase_id), run.agents.busy).id
        return host_id


def _fill(run: Run, inputs: ReinstallInputs, host_id: str) -> None:
    with session():
        file = files.load(inputs.file_id)
        template = Template.get_or_none(Template.id == inputs.template_id)
    if template is None:
        raise FailedPreconditionError("the template was deleted meanwhile", "NO_TEMPLATE")
    request = volume_pb2.CreateVolumeRequest(
        operation=run.ref(),
        volume=wire.keyed_ref(file, run.keys, inputs.iter_time_ms),
        size_bytes=file.size_bytes,
        provisioning=wire.PROVISIONINGS[file.provisioning],
        template=wire.template_source(template, run.keys),
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.CreateVolume, request, (0, 95))
    files.record_info(file.id, update.volume)


def _forget_staged(run: Run) -> None:
    with transaction():
        vm_user_data.forget(run.resource_id, run.id)


def _switch(run: Run, inputs: ReinstallInputs) -> None:
    with transaction():
        vm_user_data.switch(run.resource_id, run.id, inputs.has_user_data)
        template = Template.get_or_none(Template.id == inputs.template_id)
        files.switch(inputs.volume_id, inputs.file_id, template=template)
        if template is not None:
            Vm.update(template=template, template_name=template.name, firmware=template.firmware).where(
                Vm.id == run.resource_id
            ).execute()
