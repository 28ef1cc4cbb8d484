"""Which accounts may use a network."""

from __future__ import annotations

from ostler_common.bridges import bridge_of
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function
from peewee import ColumnBase

from ostler_control.hypervisors import proved
from ostler_control.models import Account, Host, Network, NetworkAccount


def usable_by(account_id: str) -> ColumnBase:
    """The condition on `Network` that this account may use it."""
    allowed = NetworkAccount.select(NetworkAccount.network).where(NetworkAccount.account == account_id)
    return Network.all_accounts | Network.id.in_(allowed)


def find_on_bridge(zone_id: str, bridge: str, account: Account) -> Network:
    """The network behind a bridge of a zone's hosts that this account may use; of several the first by name.

    Raises FailedPreconditionError NO_NETWORK.
    """
    query = Network.select().where((Network.zone == zone_id) & usable_by(account.id)).order_by(Network.name)
    for network in query:
        if bridge == bridge_of(network.bridge, network.vlan):
            return network
    raise FailedPreconditionError(
        f"account {account.name} may use no network on bridge {bridge} "
        f"(ostler network create NAME --bridge {bridge} --allow {account.name})",
        "NO_NETWORK",
        {"bridge": bridge, "account": account.id},
    )


def check_host(host: Host, network: Network) -> None:
    """Raises FailedPreconditionError OTHER_ZONE, LACKS_BRIDGE, LACKS_NIC_FILTER."""
    reason = ""
    if host.cluster.zone_id != network.zone_id:
        reason, lack = "OTHER_ZONE", "is in another zone"
    elif network.bridge not in host.bridges.split(","):
        reason, lack = "LACKS_BRIDGE", f"has no bridge {network.bridge}"
    elif network.spoof_filter and not _filters(host):
        reason, lack = "LACKS_NIC_FILTER", "has not proved that it can filter spoofed frames"
    if reason:
        raise FailedPreconditionError(
            f"host {host.name} {lack}: network {network.name} needs it (migrate the VM to another host)",
            reason,
            {"host": host.id, "network": network.id},
        )


def _filters(host: Host) -> bool:
    return proved.has(host.id, Function.NIC_FILTER)


def check_allowed(network: Network, account: Account) -> None:
    """Raises FailedPreconditionError NETWORK_NOT_ALLOWED."""
    if not Network.select().where((Network.id == network.id) & usable_by(account.id)).exists():
        raise FailedPreconditionError(
            f"account {account.name} may not use network {network.name} "
            f"(ostler network update {network.name} --allow {account.name})",
            "NETWORK_NOT_ALLOWED",
            {"network": network.id, "account": account.id},
        )
