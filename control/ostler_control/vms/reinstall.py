"""A new root disk for a stopped VM, made from a template: a new file, under a key of its own, takes the old one's
place."""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError

from ostler_control import settings
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Template, Vm, new_id
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.templates.store import check_encryption
from ostler_control.vms.rows import disks_of, wrong_state
from ostler_control.volumes import files, matrix, wire
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.new_volume import MIB
from ostler_control.volumes.rows import running_host


def reinstall(vm: Any, user: str, keys: Keyring, template: Template | None = None) -> Operation:
    """Records the operation that gives a stopped VM a new root disk; what was on the old one is gone with its key.

    template None: the one that the VM was made from. The disk keeps its pool, and its size unless the template is
    larger; it is encrypted if it was, or if the VM's offering wants it.
    Raises FailedPreconditionError: VM_RUNNING, VM_STATE, NO_TEMPLATE, TEMPLATE_TYPE, TEMPLATE_ENCRYPTED, VOLUME_STATE,
    NO_FEASIBLE_POOL, NO_CAPABLE_HOST.
    """
    vm = lock_row(vm)
    root = next((disk for disk in disks_of(vm.id) if disk.root), None)
    if root is None:
        raise wrong_state(vm, "whole")
    root = lock_row(root)
    matrix.check(matrix.Operation.REINSTALL, root, vm.state == "running")
    running_host(vm)
    check_ready(root)
    source = _template(vm, template)
    encrypted = bool(root.passphrase_id or vm.service_offering.encrypt_root)
    check_encryption(source, encrypted)
    choose_host(root.pool, encrypted, lambda _: 0)
    operation_id = new_id()
    size_bytes = max(root.size_bytes, -(-source.virtual_size_bytes // MIB) * MIB)
    file = files.record_file(root, operation_id, keys, encrypted=encrypted, size_bytes=size_bytes)
    inputs = {
        "volume_id": root.id,
        "file_id": file.id,
        "old_file_id": root.file_id,
        "template_id": source.id,
        "iter_time_ms": settings.encryption.LUKS_ITER_TIME.get(),
    }
    return record_operation("vm.reinstall", vm, user, inputs, also=[root], operation_id=operation_id)


def _template(vm: Any, wanted: Any | None) -> Any:
    template = wanted or vm.template
    if template is None:
        raise FailedPreconditionError(
            f"template {vm.template_name}, which VM {vm.name} was made from, is deleted; name another", "NO_TEMPLATE"
        )
    if template.hypervisor_type and vm.hypervisor_type not in ("", template.hypervisor_type):
        raise FailedPreconditionError(
            f"template {template.name} is for hypervisors of type {rules.name_of(template.hypervisor_type)}, and VM "
            f"{vm.name} runs on those of type {rules.name_of(vm.hypervisor_type)}",
            "TEMPLATE_TYPE",
        )
    return template


@workflow("vm.reinstall")
def _reinstall(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("discard", lambda: files.remove(run, run.inputs["file_id"]))
        host_id: str = run.step("choose", lambda: _choose(run))
        run.step("fill", lambda: _fill(run, host_id))
        undo.clear()
    run.always("switch", lambda: _switch(run))
    files.remove_old(run, run.inputs["old_file_id"])


def _choose(run: Run) -> str:
    with session():
        file = files.load(run.inputs["file_id"])
        host_id: str = choose_host(file.pool, bool(file.passphrase_id), run.agents.busy).id
        return host_id


def _fill(run: Run, host_id: str) -> None:
    with session():
        file = files.load(run.inputs["file_id"])
        template: Any = Template.get_or_none(Template.id == run.inputs["template_id"])
    if template is None:
        raise FailedPreconditionError("the template was deleted meanwhile", "NO_TEMPLATE")
    request = volume_pb2.CreateVolumeRequest(
        operation=run.ref(),
        volume=wire.keyed_ref(file, run.keys, run.inputs["iter_time_ms"]),
        size_bytes=file.size_bytes,
        provisioning=wire.PROVISIONINGS[file.provisioning],
        template=wire.template_source(template, run.keys),
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.CreateVolume, request, (0, 95))
    files.record_info(file.id, update.volume)


def _switch(run: Run) -> None:
    with transaction():
        template: Any = Template.get_or_none(Template.id == run.inputs["template_id"])
        files.switch(run.inputs["volume_id"], run.inputs["file_id"], template=template)
        if template is not None:
            Vm.update(template=template, template_name=template.name, firmware=template.firmware).where(
                Vm.id == run.resource_id
            ).execute()
