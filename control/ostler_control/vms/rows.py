"""A VM's rows, as workflows read and change them."""

from __future__ import annotations

from collections.abc import Collection

from ostler_common.errors import FailedPreconditionError, NotFoundError
from peewee import JOIN

from ostler_control.database import joined, session, transaction
from ostler_control.hosts.rows import is_up, silent
from ostler_control.models import (
    Host,
    Network,
    Nic,
    NicDown,
    Passphrase,
    Vm,
    VmSighting,
    VmState,
    Volume,
    now,
    tuples,
)
from ostler_control.models.joined import columns_of, objects
from ostler_control.prepared import Prepared


def load(vm_id: str) -> Vm:
    """A VM's row."""
    with session():
        return Vm.get_by_id(vm_id)


_WITH_DISKS = Prepared(
    lambda value: (
        Vm.select(*columns_of(Vm, Volume, Passphrase))
        .join(Volume, JOIN.LEFT_OUTER, on=(Volume.vm_id == Vm.id))
        .join(Passphrase, JOIN.LEFT_OUTER, on=(Volume.passphrase == Passphrase.id))
        .where(Vm.id == value("vm"))
        .order_by(Volume.slot)
    )
)


def load_with_disks(vm_id: str) -> tuple[Vm, list[Volume]]:
    """A VM's row, and the volumes attached to it, by slot, with their passphrases."""
    with session():
        rows = objects(_WITH_DISKS.rows(tuple[object, ...], vm=vm_id), Vm, Volume, Passphrase)
    disks = []
    for _, volume, passphrase in rows:
        if volume is not None:
            volume.passphrase = passphrase
            disks.append(volume)
    return rows[0][0], disks


def disks_of(vm_id: str) -> list[Volume]:
    """The volumes attached to a VM, by slot."""
    with session():
        return list(Volume.select().where(Volume.vm_id == vm_id).order_by(Volume.slot))


def nics_of(vm_id: str) -> list[Nic]:
    """A VM's network interfaces with their networks, in order."""
    with session():
        return list(Nic.select(Nic, Network).join(Network).where(Nic.vm == vm_id).order_by(Nic.position))


def down_of(nic_ids: Collection[str]) -> set[str]:
    """Those of these interfaces whose link is down."""
    if not nic_ids:
        return set()
    query = NicDown.select(NicDown.nic).where(NicDown.nic.in_(list(nic_ids)))
    return {nic_id for (nic_id,) in tuples(query, tuple[str])}


def find_nic(vm: Vm, mac: str) -> Nic:
    """A VM's network interface. Raises NotFoundError NIC_NOT_FOUND."""
    nic = Nic.get_or_none((Nic.vm == vm) & (Nic.mac == mac.lower()))
    if nic is None:
        raise NotFoundError(
            f"VM {vm.name} has no network interface {mac[:40]} (ostler vm show {vm.name})",
            "NIC_NOT_FOUND",
            {"vm": vm.id},
        )
    return nic


def set_state(vm_id: str, state: VmState, **values: object) -> None:
    """Records a VM's state; clears its `attention`. values: further columns."""
    with joined():
        Vm.change(vm_id, **{"state": state, "state_time": now(), "attention": "", **values})


def set_attention(vm_id: str, attention: str) -> None:
    """Records what differs between a VM's rows and what its host may have."""
    with transaction():
        Vm.update(attention=attention).where(Vm.id == vm_id).execute()


def wrong_state(vm: Vm, wanted: str) -> FailedPreconditionError:
    """The refusal for a VM in another state."""
    attention = f" ({vm.attention})" if vm.attention else ""
    return FailedPreconditionError(
        f"VM {vm.name} is {vm.state}{attention}; this needs one that is {wanted}",
        "VM_STATE",
        {"vm": vm.id, "state": vm.state},
    )


def hosts_elsewhere(vm: Vm) -> list[Host]:
    """The hosts on which the VM was last seen running although Ostler did not place it there."""
    return list(Host.select().join(VmSighting).where(VmSighting.vm == vm.id).order_by(Host.name))


def check_not_elsewhere(vm: Vm) -> None:
    """Raises FailedPreconditionError RUNS_ELSEWHERE while the VM was last seen running on a host where Ostler did not
    place it: a second run would write the same disks."""
    hosts = hosts_elsewhere(vm)
    if not hosts:
        return
    names = " and ".join(host.name for host in hosts)
    raise FailedPreconditionError(
        f"VM {vm.name} was last seen running on host {names}, where Ostler did not place it; end it there first",
        "RUNS_ELSEWHERE",
        {"vm": vm.id},
    )


def running_host(vm: Vm) -> Host:
    """The host of a VM that is running. Raises FailedPreconditionError VM_STATE, or HOST_SILENT."""
    if vm.state is not VmState.RUNNING or vm.host_id is None:
        raise wrong_state(vm, "running")
    host = Host.get_by_id(vm.host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    return host
