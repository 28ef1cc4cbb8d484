"""What administrators do with hosts: update, maintenance, removal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ostler_common.errors import AbortedError, AlreadyExistsError, FailedPreconditionError
from peewee import IntegrityError, fn

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.hypervisors import rules
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import (
    FenceDevice,
    FenceState,
    Host,
    HostFence,
    HostPower,
    HostState,
    Pool,
    PoolHost,
    UnmanagedVm,
    Vm,
    Volume,
)
from ostler_control.states import SwitchState
from ostler_control.trust import certificates, host_names, tokens


def update(host: Host, values: Mapping[str, Any], actor: str) -> Host:
    """Changes name, address or enabled.

    Raises InvalidArgumentError, AlreadyExistsError (HOST_EXISTS, HOST_ADDRESS_TAKEN), FailedPreconditionError
    OTHER_HYPERVISOR_TYPE when a host of another type than its cluster's is to be enabled.
    """
    if values.get("enabled"):
        rules.check_same(host.cluster, str(host.name), host.hypervisor_type)
    values, own = dict(values), set()
    if "name" in values:
        values["name"] = host_names.host_name(values["name"], "values.name")
        own.add(values["name"])
    if "address" in values:
        own.add(host_names.address_name(values["address"], "values.address"))
    try:
        with transaction():
            host_names.check_free(own, host.id)
            Host.update(**values).where(Host.id == host.id).execute()
            changes = ", ".join(f"{key} {value}" for key, value in sorted(values.items()))
            _record("host.update", host, actor, f"host {host.name}: {changes}")
    except IntegrityError as error:
        raise AlreadyExistsError(f"there is a host {values['name']} already", "HOST_EXISTS") from error
    return Host.get_by_id(host.id)


def set_maintenance(host: Host, wanted: bool, reason: str, actor: str) -> Host:
    """Puts a host into maintenance, or ends that; its VMs stay where they are.

    Raises FailedPreconditionError HOST_SWITCHED_OFF when it is to end while the host is switched off to save power. One
    that is still being emptied for that stays on. Of one that is off, whoever asked for maintenance has to end it.
    """
    with transaction():
        HostPower.delete().where(HostPower.host == host.id, HostPower.state == SwitchState.EMPTYING).execute()
        if wanted:
            HostPower.update(automatic=False).where(HostPower.host == host.id).execute()
        else:
            if HostPower.select().where(HostPower.host == host.id).exists():
                raise FailedPreconditionError(
                    f"host {host.name} is switched off to save power, or about to be: switch it on first "
                    f"(ostler host power-on {host.name})",
                    "HOST_SWITCHED_OFF",
                    {"host": host.name},
                )
        changed = (
            Host.update(maintenance=wanted, maintenance_reason=reason)
            .where(Host.id == host.id, (Host.maintenance != wanted) | (Host.maintenance_reason != reason))
            .execute()
        )
        if changed:
            what = f"in maintenance{f': {reason}' if reason else ''}" if wanted else "out of maintenance"
            _record("host.maintenance", host, actor, f"host {host.name} is {what}")
    return Host.get_by_id(host.id)


def remove(host: Host, actor: str, *, validate_only: bool = False) -> None:
    """Removes a host from the fleet, with its tokens and its own empty pools; revokes its certificates at once.

    Raises FailedPreconditionError: HOST_HAS_VMS while VMs are placed on it, HOST_HAS_VOLUMES while a pool of its own
    holds volumes.
    """
    with transaction():
        # One statement: a concurrent placement either comes first, and this refuses, or finds the host gone.
        placed = Vm.select().where((Vm.host == host.id) | (Vm.destination == host.id))
        removed = (
            Host.update(removed=True)
            .where(Host.id == host.id, Host.allocated_cpus == 0, Host.allocated_memory_bytes == 0, ~fn.EXISTS(placed))
            .execute()
        )
        if removed != 1:
            names = [vm.name for vm in placed.order_by(Vm.name).limit(5)]
            raise FailedPreconditionError(
                f"VMs are placed on host {host.name} ({', '.join(names) or 'some right now'}): "
                + _what_to_do(host, "migrate or stop them"),
                "HOST_HAS_VMS",
                {"host": host.name},
            )
        own = [pool.id for pool in own_pools(host)]
        volumes = [volume.name for volume in Volume.select(Volume.name).where(Volume.pool.in_(own)).limit(5)]
        if volumes:
            raise FailedPreconditionError(
                f"pools of host {host.name} hold volumes ({', '.join(volumes)}): "
                + _what_to_do(host, "delete them first"),
                "HOST_HAS_VOLUMES",
                {"host": host.name},
            )
        if validate_only:
            Host.update(removed=False).where(Host.id == host.id).execute()
            return
        delete_rows(host, actor, f"host {host.name} removed, its certificates revoked")


def _what_to_do(host: Host, if_it_answers: str) -> str:
    if Host.get_by_id(host.id).state in (HostState.UP, HostState.CONNECTING):
        return if_it_answers
    return (
        "the host does not answer; bring it back, or forget it with what only it had (make sure that it is off, then "
        f"ostler host remove --lost {host.name})"
    )


def delete_rows(host: Host, actor: str, message: str) -> None:
    """Deletes the rows of a host that nothing needs, and of its own pools: within the caller's transaction.

    Its certificates and tokens end at once. message: the event's. Raises AbortedError RESOURCE_BUSY while the host is
    being fenced.
    """
    fencing = (HostFence.host == host.id) & (HostFence.state == FenceState.FENCING)
    if HostFence.select().where(fencing).exists():
        raise AbortedError(f"host {host.name} is being fenced; wait for that", "RESOURCE_BUSY", {"host": host.name})
    certificates.revoke_host(host.id)
    tokens.withdraw(host.id)
    own = [pool.id for pool in own_pools(host)]
    PoolHost.delete().where((PoolHost.host == host.id) | PoolHost.pool.in_(own)).execute()
    Pool.delete().where(Pool.id.in_(own)).execute()
    UnmanagedVm.delete().where(UnmanagedVm.host == host.id).execute()
    device = FenceDevice.get_or_none(FenceDevice.host == host.id)
    if device is not None:
        FenceDevice.delete().where(FenceDevice.id == device.id).execute()
        delete_passphrase(device.passphrase_id)
    Host.delete().where(Host.id == host.id).execute()
    _record("host.remove", host, actor, message)


def own_pools(host: Host) -> list[Pool]:
    """The pools that only this host has."""
    return list(Pool.select().where((Pool.scope == "host") & (Pool.scope_id == host.id)))


def _record(event: str, host: Host, actor: str, message: str) -> None:
    events.record(event, events.Outcome.SUCCEEDED, actor, "host", host.id, host.name, message)
