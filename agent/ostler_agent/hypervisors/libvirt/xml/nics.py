"""Network interfaces."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_common.errors import FailedPreconditionError

from ostler_agent.hypervisors.libvirt.xml import nwfilters
from ostler_agent.hypervisors.libvirt.xml.element import element
from ostler_agent.spec import NicSpec, VhostUser

VHOST_USER_DIRECTORY = "/run/openvswitch"


def nic(spec: NicSpec, vhost_user: VhostUser | None = None) -> Element:
    """One interface: on a bridge of the host, or a vhost-user socket that Open vSwitch shares.

    Raises FailedPreconditionError FILTER_NOT_POSSIBLE: the host sees no frames of a vhost-user socket.
    """
    if vhost_user and spec.filter:
        raise FailedPreconditionError(
            f"interface {spec.mac} is a vhost-user socket, whose frames the host cannot filter (use a network without "
            "filter)",
            "FILTER_NOT_POSSIBLE",
            {"mac": spec.mac},
        )
    if vhost_user is None:
        source = element("source", bridge=spec.bridge)
    else:
        source = element("source", type="unix", path=socket_path(spec.mac), mode=vhost_user.value)
    return element(
        "interface",
        element("mac", address=spec.mac),
        source,
        element("model", type=spec.model),
        element("mtu", size=str(spec.mtu)) if spec.mtu else None,
        element("link", state="down") if spec.link_down else None,
        _filter(spec) if spec.filter else None,
        type="bridge" if vhost_user is None else "vhostuser",
    )


def bridges(domain: Element) -> dict[str, str]:
    """The bridge of each of a domain's interfaces that is on one, by MAC address."""
    found = {}
    for interface in domain.findall("devices/interface"):
        mac, source = interface.find("mac"), interface.find("source")
        if mac is not None and source is not None and source.get("bridge"):
            found[mac.get("address", "").lower()] = source.get("bridge", "")
    return found


def is_link_down(interface: Element) -> bool:
    """Whether the guest sees no cable."""
    link = interface.find("link")
    return link is not None and link.get("state") == "down"


def set_link(interface: Element, up: bool) -> None:
    """Sets the link's state in an interface's element."""
    for old in interface.findall("link"):
        interface.remove(old)
    interface.append(element("link", state="up" if up else "down"))


def _filter(spec: NicSpec) -> Element:
    return element("filterref", *nwfilters.parameters_for(spec.addresses), filter=nwfilters.name_for(spec.addresses))


def socket_path(mac: str) -> str:
    """Where the vhost-user socket of the interface with this MAC is; its last part is the name of the switch's port."""
    return f"{VHOST_USER_DIRECTORY}/ov{mac.replace(':', '')}"
