"""Details of VMs: keys with values that Ostler keeps for people and their tools.

Keys that begin with "extraconfig" are extra configuration's: refused in a new VM, skipped in a change, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from ostler_common.errors import bad_field

from ostler_control.extraconfig.names import is_reserved
from ostler_control.models import Vm, VmDetail, tuples

MAX_DETAILS = 64
MAX_VALUE_LENGTH = 1024
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def check_new(details: Mapping[str, str]) -> None:
    """Checks the details of a new VM.

    Raises InvalidArgumentError EXTRA_CONFIG_IN_DETAILS, INVALID_DETAIL, TOO_MANY_DETAILS.
    """
    for key in details:
        if is_reserved(key):
            raise bad_field(
                "details",
                f'the key "{key[:80]}" is reserved; use `ostler vm extraconfig set` once the VM is created',
                "EXTRA_CONFIG_IN_DETAILS",
            )
    _check(details)


def add(vm: Vm, details: Mapping[str, str]) -> None:
    """Gives a VM details that were checked, within the caller's transaction."""
    for key, value in details.items():
        VmDetail.create(vm=vm, key=key, value=value)


def replace(vm: Vm, details: Mapping[str, str]) -> list[str]:
    """Replaces a VM's details, within the caller's transaction; returns the reserved keys that were skipped.

    Raises InvalidArgumentError INVALID_DETAIL, TOO_MANY_DETAILS.
    """
    skipped = sorted(key for key in details if is_reserved(key))
    kept = [key for key in of_vms([vm.id]).get(vm.id, {}) if is_reserved(key)]
    changed = {key: value for key, value in details.items() if key not in skipped}
    _check(changed)
    VmDetail.delete().where(VmDetail.vm == vm, VmDetail.key.not_in(kept)).execute()
    add(vm, changed)
    return skipped


def of_vms(vm_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The details of these VMs by id; VMs without any are left out."""
    if not vm_ids:
        return {}
    query = VmDetail.select(VmDetail.vm, VmDetail.key, VmDetail.value).where(VmDetail.vm.in_(list(vm_ids)))
    found: dict[str, dict[str, str]] = {}
    for vm_id, key, value in tuples(query.order_by(VmDetail.key), tuple[str, str, str]):
        found.setdefault(vm_id, {})[key] = value
    return found


def _check(details: Mapping[str, str]) -> None:
    if len(details) > MAX_DETAILS:
        raise bad_field("details", f"has {len(details)} keys; at most {MAX_DETAILS} are allowed", "TOO_MANY_DETAILS")
    for key, value in details.items():
        if not _KEY.fullmatch(key):
            raise bad_field("details", f'the key "{key[:80]}" must be 1 to 128 of [A-Za-z0-9._-]', "INVALID_DETAIL")
        if len(value) > MAX_VALUE_LENGTH:
            raise bad_field(
                "details", f"the value of {key} has more than {MAX_VALUE_LENGTH} characters", "INVALID_DETAIL"
            )
