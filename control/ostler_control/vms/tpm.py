"""Emulated TPMs: which VMs have one, and the key of its own that encrypts the state of each."""

from __future__ import annotations

from collections.abc import Collection

from ostler.types.v1 import vm_pb2
from ostler_common.secret import Secret
from peewee import ModelSelect

from ostler_control.database import session
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Vm, VmTpm, new_id, tuples
from ostler_control.volumes import wire


def add(vm: Vm, keys: Keyring) -> None:
    """Gives a VM a new TPM: within the caller's transaction."""
    row_id = new_id()
    VmTpm.create(id=row_id, vm=vm, passphrase=keys.create(row_id))


def copy(source: Vm, target: Vm, keys: Keyring) -> None:
    """Gives a clone of a VM that has a TPM a new, empty one: within the caller's transaction.

    A copy of the state would let two guests prove that they are the same machine.
    """
    if has_one(source.id):
        add(target, keys)


def set_key(vm_id: str, passphrase: Secret, keys: Keyring) -> None:
    """A VM's TPM gets the key of the one that it becomes a copy of: within the transaction that sets its state."""
    row = VmTpm.get(VmTpm.vm == vm_id)
    old_id = row.passphrase_id
    VmTpm.update(passphrase=keys.store(passphrase, row.id)).where(VmTpm.id == row.id).execute()
    delete_passphrase(old_id)


def passphrase_of(vm_id: str, keys: Keyring) -> Secret | None:
    """What encrypts the state of a VM's TPM; None for a VM without."""
    with session():
        row = VmTpm.get_or_none(VmTpm.vm == vm_id)
    return keys.open(row) if row is not None else None


def forget(vm_id: str) -> None:
    """Deletes a VM's TPM with its key: within the caller's transaction, before the VM's row goes."""
    row = VmTpm.get_or_none(VmTpm.vm == vm_id)
    if row is not None:
        VmTpm.delete().where(VmTpm.id == row.id).execute()
        delete_passphrase(row.passphrase_id)


def has_one(vm_id: str) -> bool:
    """Whether a VM has a TPM."""
    return bool(of_vms([vm_id]))


def of_vms(vm_ids: Collection[str] | ModelSelect[Vm]) -> set[str]:
    """Those of these VMs, or of those that a query finds, that have a TPM."""
    wanted = vm_ids if isinstance(vm_ids, ModelSelect) else list(vm_ids)
    query = VmTpm.select(VmTpm.vm).where(VmTpm.vm.in_(wanted))
    return {vm_id for (vm_id,) in tuples(query, tuple[str])}


def key_ids(vm_id: str) -> list[str]:
    """Id of the key of a VM's TPM; none for a VM without."""
    with session():
        row = VmTpm.get_or_none(VmTpm.vm == vm_id)
    return [row.passphrase_id] if row is not None else []


def to_wire(vm_id: str, keys: Keyring | None) -> vm_pb2.Tpm | None:
    """A VM's TPM as a host needs it. keys: brings the passphrase, for the call that this is made for."""
    with session():
        row = VmTpm.get_or_none(VmTpm.vm == vm_id)
    if row is None:
        return None
    if keys is None:
        found = vm_pb2.Tpm()
        found.key.key_id = row.passphrase_id
        return found
    return vm_pb2.Tpm(key=wire.key(row, keys))
