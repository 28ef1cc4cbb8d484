"""Descriptions of VMs: what people say about them."""

from __future__ import annotations

from collections.abc import Collection

from ostler_common.errors import bad_field

from ostler_control.models import Vm, VmDescription, tuples

MAX_LENGTH = 1024


def replace(vm: Vm, text: str) -> None:
    """Replaces a VM's description, within the caller's transaction; "" removes it.

    Raises InvalidArgumentError INVALID_DESCRIPTION.
    """
    if len(text) > MAX_LENGTH:
        raise bad_field("description", f"has more than {MAX_LENGTH} characters", "INVALID_DESCRIPTION")
    VmDescription.delete().where(VmDescription.vm == vm).execute()
    if text:
        VmDescription.create(vm=vm, text=text)


def of_vms(vm_ids: Collection[str]) -> dict[str, str]:
    """The descriptions of these VMs by id; VMs without one are left out."""
    if not vm_ids:
        return {}
    query = VmDescription.select(VmDescription.vm, VmDescription.text).where(VmDescription.vm.in_(list(vm_ids)))
    return dict(tuples(query, tuple[str, str]))
