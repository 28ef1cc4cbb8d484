"""Filters of spoofed frames, as libvirt's nwfilter XML (https://libvirt.org/formatnwfilter.html).

Interfaces refer to one of `name_for`. Directions are the VM's: "out" is what it sends.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from ipaddress import ip_address
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element, to_text

# libvirt knows filters by their UUIDs too: fixed ones, so that defining a filter again replaces it.
_NAMESPACE = uuid.UUID("6f1ad3a0-5c0e-4b8f-9d6e-0b6f5e5f7a11")
_PREFIX = "ostler-"
_LINK_LOCAL, _LINK_LOCAL_BITS = "fe80::", "10"


def name_for(addresses: Iterable[str]) -> str:
    """The filter for an interface with these IP addresses; a family without an address is not filtered."""
    versions = {ip_address(address).version for address in addresses}
    return f"{_PREFIX}mac" + "".join(f"-ipv{version}" for version in sorted(versions))


def parameters_for(addresses: Iterable[str]) -> list[Element]:
    """The parameters of that filter."""
    names = {4: "IP", 6: "IPV6"}
    return [element("parameter", name=names[ip_address(text).version], value=text) for text in addresses]


def definitions() -> list[tuple[str, str]]:
    """Name and XML of every filter; those that others refer to come first."""
    parts = [_no_vlan(), _no_mac_spoofing(), _no_arp_mac_spoofing(), *_no_ipv4_spoofing(), _no_ipv6_spoofing()]
    mac = ["part-vlan", "part-mac", "part-arp-mac"]
    ipv4, ipv6 = ["part-arp-ip", "part-ipv4"], ["part-ipv6"]
    whole = [
        _filter("mac", "root", None, *_references(mac)),
        _filter("mac-ipv4", "root", None, *_references(mac + ipv4)),
        _filter("mac-ipv6", "root", None, *_references(mac + ipv6)),
        _filter("mac-ipv4-ipv6", "root", None, *_references(mac + ipv4 + ipv6)),
    ]
    return [(made.get("name", ""), to_text(made)) for made in (*parts, *whole)]


def _no_vlan() -> Element:
    """A VM chooses no VLAN: tagged frames would reach any VLAN that the uplink carries."""
    drop = _rule("drop", 100, element("mac", protocolid="0x8100"))
    double = _rule("drop", 100, element("mac", protocolid="0x88a8"))
    return _filter("part-vlan", "root", None, drop, double)


def _no_mac_spoofing() -> Element:
    own = _rule("return", 350, element("mac", srcmacaddr="$MAC"))
    return _filter("part-mac", "mac", "-800", own, _rule("drop", 500, element("mac")))


def _no_arp_mac_spoofing() -> Element:
    own = _rule("return", 350, element("arp", arpsrcmacaddr="$MAC"))
    return _filter("part-arp-mac", "arp-mac", "-520", own, _rule("drop", 1000))


def _no_ipv4_spoofing() -> tuple[Element, Element]:
    """In ARP and in IPv4. 0.0.0.0 is what a guest sends from while it asks for an address, or whether it is taken."""
    arp = (
        _rule("return", 400, element("arp", arpsrcipaddr="$IP")),
        _rule("return", 410, element("arp", arpsrcipaddr="0.0.0.0")),
        _rule("drop", 1000),
    )
    ip = (
        _rule("return", 100, element("ip", srcipaddr="0.0.0.0", protocol="udp")),
        _rule("return", 500, element("ip", srcipaddr="$IP")),
        _rule("drop", 1000),
    )
    return _filter("part-arp-ip", "arp-ip", "-510", *arp), _filter("part-ipv4", "ipv4-ip", "-710", *ip)


def _no_ipv6_spoofing() -> Element:
    """Link-local addresses and the unspecified one are for neighbor discovery."""
    rules = (
        _rule("return", 100, element("ipv6", srcipaddr=_LINK_LOCAL, srcipmask=_LINK_LOCAL_BITS)),
        _rule("return", 110, element("ipv6", srcipaddr="::", srcipmask="128")),
        _rule("return", 500, element("ipv6", srcipaddr="$IPV6")),
        _rule("drop", 1000),
    )
    return _filter("part-ipv6", "ipv6-ip", "-610", *rules)


def _filter(name: str, chain: str, priority: str | None, *content: Element) -> Element:
    name = _PREFIX + name
    made = element("filter", element("uuid", str(uuid.uuid5(_NAMESPACE, name))), *content, name=name, chain=chain)
    if priority:
        made.set("priority", priority)
    return made


def _references(names: Iterable[str]) -> list[Element]:
    return [element("filterref", filter=_PREFIX + name) for name in names]


def _rule(action: str, priority: int, *match: Element) -> Element:
    return element("rule", *match, action=action, direction="out", priority=str(priority))
