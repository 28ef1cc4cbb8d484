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
        _filter(spec) if spec.filter else None,
        type="bridge" if vhost_user is None else "vhostuser",
    )


def _filter(spec: NicSpec) -> Element:
    return element("filterref", *nwfilters.parameters_for(spec.addresses), filter=nwfilters.name_for(spec.addresses))


def socket_path(mac: str) -> str:
    """Where the vhost-user socket of the interface with this MAC is; its last part is the name of the switch's port."""
    return f"{VHOST_USER_DIRECTORY}/ov{mac.replace(':', '')}"
