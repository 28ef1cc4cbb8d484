"""What the networks of VMs need of the host that runs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from peewee import ModelSelect

from ostler_control.models import Network, Nic, Vm, tuples


@dataclass(frozen=True)
class Needs:
    """bridges: of the host; network_zones: ids of zones that it must be in; nic_filter: it filters spoofed frames."""

    bridges: frozenset[str] = frozenset()
    network_zones: frozenset[str] = frozenset()
    nic_filter: bool = False


def needs(networks: Iterable[Network]) -> Needs:
    """What these networks need."""
    return _needs([(network.bridge, network.zone_id, bool(network.spoof_filter)) for network in networks])


def needs_of(vm_id: str) -> Needs:
    """What a VM's networks need."""
    query = Nic.select(Network.bridge, Network.zone, Network.spoof_filter).join(Network).where(Nic.vm == vm_id)
    return _needs(tuples(query, tuple[str, str, bool]))


def needs_of_vms(vm_ids: ModelSelect[Vm]) -> dict[str, Needs]:
    """The same for many VMs; one without network interfaces is not there."""
    query = (
        Nic.select(Nic.vm, Network.bridge, Network.zone, Network.spoof_filter).join(Network).where(Nic.vm.in_(vm_ids))
    )
    found: defaultdict[str, list[tuple[str, str, bool]]] = defaultdict(list)
    for vm_id, bridge, zone_id, filtered in tuples(query, tuple[str, str, str, bool]):
        found[vm_id].append((bridge, zone_id, filtered))
    return {vm_id: _needs(networks) for vm_id, networks in found.items()}


def _needs(networks: Iterable[tuple[str, str, bool]]) -> Needs:
    rows = list(networks)
    return Needs(
        frozenset(bridge for bridge, _, _ in rows),
        frozenset(zone_id for _, zone_id, _ in rows),
        any(filtered for _, _, filtered in rows),
    )
