"""Creates, changes and deletes networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ostler_common.bridges import MAX_VLAN, MAX_VLAN_TRUNK_NAME
from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, bad_field
from peewee import IntegrityError

from ostler_control import database, events
from ostler_control.catalog.names import check_name
from ostler_control.models import Account, Network, NetworkAccount, Nic, Zone

# Of the fields of a network. "accounts" are given apart.
CHANGEABLE = frozenset({"name", "bridge", "vlan", "mtu", "filter", "all_accounts", "accounts"})
_COLUMNS = {"filter": "spoof_filter"}
MIN_MTU, MAX_MTU = 576, 65535
_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", re.ASCII)


@dataclass(frozen=True)
class NewNetwork:
    """A network to create. vlan 0: untagged; mtu 0: the bridge's."""

    name: str
    zone: Zone
    bridge: str
    vlan: int = 0
    mtu: int = 0
    filter: bool = True
    all_accounts: bool = False
    accounts: Sequence[Account] = ()


def create(new: NewNetwork, actor: str) -> Network:
    """Creates a network. Raises InvalidArgumentError, AlreadyExistsError NAME_TAKEN."""
    check_name("name", new.name)
    _check("", new.bridge, new.vlan, new.mtu)
    try:
        with database.transaction():
            network: Network = Network.create(
                name=new.name,
                zone=new.zone,
                bridge=new.bridge,
                vlan=new.vlan,
                mtu=new.mtu,
                spoof_filter=new.filter,
                all_accounts=new.all_accounts,
            )
            _allow(network, new.accounts)
            events.done("network.create", actor, network, f"bridge {new.bridge}, VLAN {new.vlan or 'none'}")
            return network
    except IntegrityError:
        raise _name_taken(new.name) from None


def update(
    network: Network, changes: Mapping[str, str | int | bool], accounts: Sequence[Account] | None, actor: str
) -> Network:
    """Changes some of CHANGEABLE. accounts: those that may use it from now on; None: as they are.

    Raises InvalidArgumentError, AlreadyExistsError NAME_TAKEN, FailedPreconditionError NETWORK_IN_USE for the bridge or
    VLAN of a network that network interfaces are on.
    """
    name = str(changes.get("name", network.name))
    check_name("values.name", name)
    _check(
        "values.",
        str(changes.get("bridge", network.bridge)),
        int(changes.get("vlan", network.vlan)),
        int(changes.get("mtu", network.mtu)),
    )
    try:
        with database.transaction():
            if {"bridge", "vlan"} & changes.keys():
                _check_unused(network)
            if changes:
                columns = {_COLUMNS.get(field, field): value for field, value in changes.items()}
                Network.update(columns).where(Network.id == network.id).execute()
            if accounts is not None:
                NetworkAccount.delete().where(NetworkAccount.network == network.id).execute()
                _allow(network, accounts)
            changed: Network = Network.get_by_id(network.id)
            said = [f"{field} {value}" for field, value in sorted(changes.items())]
            if accounts is not None:
                said.append(f"accounts {', '.join(account.name for account in accounts) or 'none'}")
            events.done("network.update", actor, changed, ", ".join(said))
            return changed
    except IntegrityError:
        raise _name_taken(name) from None


def delete(network: Network, actor: str) -> None:
    """Deletes a network. Raises FailedPreconditionError NETWORK_IN_USE."""
    with database.transaction():
        _check_unused(network)
        network.delete_instance()
        events.done("network.delete", actor, network)


def _check(prefix: str, bridge: str, vlan: int, mtu: int) -> None:
    if not _BRIDGE.fullmatch(bridge):
        raise bad_field(f"{prefix}bridge", "must name a bridge on the hosts: at most 15 characters", "INVALID_BRIDGE")
    if not 0 <= vlan <= MAX_VLAN:
        raise bad_field(f"{prefix}vlan", f"must be 1 to {MAX_VLAN}, or 0 for untagged", "INVALID_VLAN")
    if vlan and len(bridge) > MAX_VLAN_TRUNK_NAME:
        raise bad_field(
            f"{prefix}bridge", f"must have at most {MAX_VLAN_TRUNK_NAME} characters with a VLAN tag", "INVALID_BRIDGE"
        )
    if mtu and not MIN_MTU <= mtu <= MAX_MTU:
        raise bad_field(f"{prefix}mtu", f"must be {MIN_MTU} to {MAX_MTU}, or 0 for the bridge's", "INVALID_MTU")


def _check_unused(network: Network) -> None:
    count = Nic.select().where(Nic.network == network.id).count()
    if count:
        raise FailedPreconditionError(
            f"network {network.name} has {count} network interface{'s' if count > 1 else ''}: remove "
            f"{'them' if count > 1 else 'it'} first",
            "NETWORK_IN_USE",
            {"network": network.id, "nics": str(count)},
        )


def _allow(network: Network, accounts: Sequence[Account]) -> None:
    for account_id in sorted({account.id for account in accounts}):
        NetworkAccount.create(network=network, account=account_id)


def _name_taken(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f'there is a network "{name}" already', "NAME_TAKEN", {"name": name})
