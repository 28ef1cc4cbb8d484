"""What a VM is given: kept, checked and merged when it is given; read at every start and move.

The merged user data is kept as well, so that a VM's guest finds the same at every boot and on every host, whatever
becomes of the template's link or of registered documents meanwhile. What a reinstallation gives waits beside it under
the operation's id, until the new disk is there.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ostler_common.hypervisors import Function
from ostler_common.secret import new_passphrase
from ostler_common.ssh_keys import check_ssh_keys

from ostler_control import settings
from ostler_control.database import session
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring, sealing
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Host, Nic, Template, Vm, VmUserData, new_id
from ostler_control.userdata import addressing, rendering, seed, template_link
from ostler_control.userdata.rendering import Inputs, Source
from ostler_control.userdata.seed import DHCP, Addressing, Guest, Seed, SeedNic

# What a VM that is not there yet is called.
NEW_VM = "new-vm"


@dataclass(frozen=True)
class Given:
    """What somebody gives a VM. own: its document; values: of variables, by name."""

    own: Source | None = None
    values: dict[str, str] = field(default_factory=dict, repr=False)
    ssh_keys: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether it is empty."""
        return self.own is None and not self.values and not self.ssh_keys


@dataclass(frozen=True)
class _Kept:
    """What is sealed in a row. used: the values that the guest gets; user_data: the finished document."""

    given: Given
    used: dict[str, str] = field(repr=False)
    user_data: bytes = field(repr=False)


def is_needed(given: Given, template: Template | None, nics: Iterable[Addressing]) -> bool:
    """Whether the VM gets a seed at all. nics: the addressing of its network interfaces."""
    static = any(nic.addresses for nic in nics)
    return static or not given.is_nothing or template_link.of(template) is not None


def assign(vm: Vm, given: Given, template: Template | None, keys: Keyring) -> None:
    """Gives a VM this from its next start on, in place of all before: within the caller's transaction.

    Raises what `rendering.render` raises, InvalidArgumentError INVALID_SSH_KEY, and FailedPreconditionError
    FUNCTION_NOT_SUPPORTED where the VM's hypervisor takes no user data.
    """
    before = _row(vm.id)
    if before is not None:
        forget(vm.id)
    _store(vm, given, template, keys, instance=int(before.instance) if before else 0)


def stage(vm: Vm, given: Given | None, template: Template | None, keys: Keyring, operation_id: str) -> bool:
    """Prepares what a reinstalled VM gets (None: what it was given before), for `switch`: within the caller's
    transaction. Returns whether it gets anything. Raises what `assign` raises."""
    if given is None:
        given = given_to(vm.id, keys)
    return _store(vm, given, template, keys, instance=_instance(vm.id) + 1, operation_id=operation_id)


def switch(vm_id: str, operation_id: str, staged: bool) -> None:
    """Makes what was staged the VM's own; repeating is harmless. staged: what `stage` returned."""
    if staged and _row(vm_id, operation_id) is None:
        return
    forget(vm_id)
    VmUserData.update(operation_id="").where(
        (VmUserData.vm == vm_id) & (VmUserData.operation_id == operation_id)
    ).execute()


def forget(vm_id: str, operation_id: str = "") -> None:
    """Deletes what a VM was given, or what was staged for it: within the caller's transaction."""
    row = _row(vm_id, operation_id)
    if row is not None:
        VmUserData.delete().where(VmUserData.id == row.id).execute()
        delete_passphrase(row.passphrase_id)


def forget_all(vm_id: str) -> None:
    """Deletes all that a VM was given or was to be given: within the caller's transaction, before its row goes."""
    for row in list(VmUserData.select().where(VmUserData.vm == vm_id)):
        forget(vm_id, row.operation_id)


def given_to(vm_id: str, keys: Keyring) -> Given:
    """What a VM was given."""
    row = _row(vm_id)
    return _unsealed(row, keys).given if row else Given()


def check_host(vm_id: str, host_id: str) -> None:
    """Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED when the VM has a seed and the host would leave it out."""
    with session():
        if _row(vm_id) is not None:
            rules.need(Function.USER_DATA, Host.get_by_id(host_id))


def seed_of(vm: Vm, keys: Keyring) -> Seed | None:
    """The files that the VM's host puts on its CD-ROM, for the call that sends them; None: it has no such CD-ROM."""
    row = _row(vm.id)
    if row is None:
        return None
    kept = _unsealed(row, keys)
    guest = _guest(vm, kept.given, row.instance)
    return seed.make(replace(guest, variables=kept.used), kept.user_data)


def preview(vm: Vm | None, given: Given | None, template: Template | None, keys: Keyring) -> Seed | None:
    """What the guest of a VM (None: of a new one) would get from this template, if it were given this.

    given None: what the VM was given. What it gets as things are is `seed_of`. Raises what `rendering.render` raises.
    """
    row = _row(vm.id) if vm else None
    if given is None:
        given = _unsealed(row, keys).given if row else Given()
    guest = _guest(vm, given, row.instance if row else 0) if vm else _new_guest(given)
    if not is_needed(given, template, (nic.addressing for nic in guest.nics)):
        return None
    return rendering.render(_inputs(guest, given, template, keys), settings.vms.USERDATA_MAX_LENGTH.get())


def _store(
    vm: Vm, given: Given, template: Template | None, keys: Keyring, *, instance: int, operation_id: str = ""
) -> bool:
    guest = _guest(vm, given, instance)
    if not is_needed(given, template, (nic.addressing for nic in guest.nics)):
        return False
    if vm.hypervisor_type:
        rules.need_of_type(Function.USER_DATA, vm.hypervisor_type)
    given = replace(given, ssh_keys=check_ssh_keys(given.ssh_keys))
    inputs = _inputs(replace(guest, ssh_keys=given.ssh_keys), given, template, keys)
    made = rendering.render(inputs, settings.vms.USERDATA_MAX_LENGTH.get())
    kept = _Kept(given, rendering.values_used(inputs), made.user_data)
    row_id, passphrase = new_id(), new_passphrase()
    VmUserData.create(
        id=row_id,
        vm=vm.id,
        operation_id=operation_id,
        instance=instance,
        passphrase=keys.store(passphrase, row_id),
        sealed=sealing.seal(passphrase, _to_json(kept), row_id),
    )
    return True


def _inputs(guest: Guest, given: Given, template: Template | None, keys: Keyring) -> Inputs:
    document, policy = template_link.source(template, keys)
    return Inputs(guest, document, given.own, policy, given.values)


def _guest(vm: Vm, given: Given, instance: int) -> Guest:
    return Guest(seed.instance_id(vm.id, instance), vm.name, _nics(vm.id), given.ssh_keys)


def _new_guest(given: Given) -> Guest:
    return Guest(seed.instance_id("00000000-0000-0000-0000-000000000000", 0), NEW_VM, (), given.ssh_keys)


def _nics(vm_id: str) -> tuple[SeedNic, ...]:
    rows = list(Nic.select().where(Nic.vm == vm_id).order_by(Nic.position))
    static = addressing.of_nics([row.id for row in rows])
    return tuple(SeedNic(row.mac, static.get(row.id, DHCP)) for row in rows)


def _instance(vm_id: str) -> int:
    row = _row(vm_id)
    return int(row.instance) if row else 0


def _row(vm_id: str, operation_id: str = "") -> VmUserData | None:
    return VmUserData.get_or_none((VmUserData.vm == vm_id) & (VmUserData.operation_id == operation_id))


def _unsealed(row: VmUserData, keys: Keyring) -> _Kept:
    content = sealing.unseal(keys.open(row), bytes(row.sealed), row.id, "the user data", "give it to the VM again")
    return _from_json(content)


def _to_json(kept: _Kept) -> bytes:
    own = kept.given.own
    document = {"name": own.name, "data": b64encode(own.data).decode(), "variables": own.variables} if own else None
    return json.dumps(
        {
            "own": document,
            "values": kept.given.values,
            "ssh_keys": kept.given.ssh_keys,
            "used": kept.used,
            "user_data": b64encode(kept.user_data).decode(),
        }
    ).encode()


def _from_json(text: bytes) -> _Kept:
    data = json.loads(text)
    own = data["own"]
    return _Kept(
        Given(
            Source(own["name"], b64decode(own["data"]), tuple(own["variables"])) if own else None,
            data["values"],
            tuple(data["ssh_keys"]),
        ),
        data["used"],
        b64decode(data["user_data"]),
    )
