"""IP addresses that guests are seen to use: from the guest agent where there is one, else from the neighbor table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict
from xml.etree import ElementTree

import libvirt

from ostler_agent.hypervisors.base import AddressSource, SeenAddress
from ostler_agent.hypervisors.libvirt import inventory
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import nics
from ostler_agent.hypervisors.libvirt.xml.guest_channel import has_agent
from ostler_agent.tools import neighbors

AGENT_TIMEOUT_S = 3


def read(session: Session, vm_id: str) -> list[SeenAddress]:
    """See `base.GuestAddresses`."""
    with translated(f"reading the addresses of VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is None or not inventory.is_active(domain):
            return []
        root = ElementTree.fromstring(domain.XMLDesc())
        if has_agent(root):
            try:
                domain.agentSetResponseTimeout(AGENT_TIMEOUT_S)
                return from_agent(domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT))
            except libvirt.libvirtError:
                pass  # it does not answer: the neighbor table may still know
    bridges = nics.bridges(root)
    return from_neighbors(neighbors.read(), bridges) if bridges else []


class Address(TypedDict):
    """An address of libvirt's answer."""

    addr: str | None
    prefix: int
    type: int


class Interface(TypedDict):
    """An interface of libvirt's answer."""

    hwaddr: str | None
    addrs: Sequence[Address] | None


def from_agent(interfaces: Mapping[str, Interface]) -> list[SeenAddress]:
    """What a guest agent answered, by the names of its interfaces; some have no MAC address, or no addresses."""
    return [
        SeenAddress(interface["hwaddr"] or "", address["addr"] or "", AddressSource.GUEST_AGENT)
        for interface in interfaces.values()
        for address in interface["addrs"] or ()
    ]


def from_neighbors(entries: Iterable[neighbors.Neighbor], bridges: Mapping[str, str]) -> list[SeenAddress]:
    """What the host saw on the bridges of the VM's interfaces. bridges: by MAC address."""
    return [
        SeenAddress(entry.mac, entry.address, AddressSource.NEIGHBOR_TABLE)
        for entry in entries
        if bridges.get(entry.mac) == entry.device
    ]
