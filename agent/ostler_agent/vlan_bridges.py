"""Bridges of VLANs: created when the first VM needs one (`vlan_requests`), and kept until the host restarts.

A VLAN has a bridge of its own, on a VLAN device of each uplink of the bridge that the network names. Its guests never
see the tag, and whatever they send leaves the host in this VLAN.

What keeps guests of the untagged bridge out of a VLAN is the filter of their interfaces (`nwfilters`), which drops
tagged frames. The bridge itself does not: a tagged frame that is not filtered leaves by the uplink as it is.
"""

from __future__ import annotations

from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent import process
from ostler_agent.network_devices import SYS_CLASS_NET
from ostler_agent.spec import NicSpec

_TIMEOUT_S = 10
_IFF_UP = 1  # linux/if.h


def check_uplinks(nic: NicSpec, devices: Path) -> list[Path]:
    """The devices that carry the interface's VLAN. Raises FailedPreconditionError VLAN_UPLINK_MISSING."""
    uplinks = _uplinks(devices / nic.trunk)
    if not uplinks:
        raise FailedPreconditionError(
            f"bridge {nic.trunk} has no uplink that could carry VLAN {nic.vlan} (add the host's network device to it)",
            "VLAN_UPLINK_MISSING",
            {"bridge": nic.trunk, "vlan": str(nic.vlan)},
        )
    return uplinks


def is_up(nic: NicSpec, devices: Path) -> bool:
    """Whether the bridge of the interface's VLAN is complete and up, with every uplink."""
    bridge = devices / nic.bridge
    parts = [bridge, *(bridge.parent / _device(nic, uplink) for uplink in _uplinks(devices / nic.trunk))]
    joined = all((bridge / "brif" / part.name).exists() for part in parts[1:])
    return joined and all(_is_device_up(part) for part in parts)


def _is_device_up(device: Path) -> bool:
    try:
        return bool(int((device / "flags").read_text(), 16) & _IFF_UP)
    except OSError:  # it does not exist
        return False


def _device(nic: NicSpec, uplink: Path) -> str:
    """Name of the VLAN device on an uplink, whose own name may be too long to add the tag to it."""
    return f"v{nic.vlan}i{(uplink / 'ifindex').read_text().strip()}"


def create(nic: NicSpec, devices: Path = SYS_CLASS_NET) -> None:
    """Creates the bridge of the interface's VLAN. Idempotent: completes what a crash left half done.

    Needs CAP_NET_ADMIN. Raises FailedPreconditionError VLAN_UPLINK_MISSING, and `process.RunError`.
    """
    uplinks = check_uplinks(nic, devices)
    if not (devices / nic.bridge).exists():
        _ip("link", "add", nic.bridge, "type", "bridge")
    # Before it is up: the host itself has no address in the VLAN.
    _ip("link", "set", nic.bridge, "addrgenmode", "none")
    for uplink in uplinks:
        device = _device(nic, uplink)
        if not (devices / device).exists():
            _ip("link", "add", "link", uplink.name, "name", device, "type", "vlan", "id", str(nic.vlan))
        if not (devices / nic.bridge / "brif" / device).exists():
            _ip("link", "set", device, "master", nic.bridge)
        _ip("link", "set", device, "up")
    _ip("link", "set", nic.bridge, "up")


def _uplinks(trunk: Path) -> list[Path]:
    """The ports of a bridge that are not a VM's: VMs have tap devices."""
    ports = sorted((trunk / "brif").glob("*"))
    return [trunk.parent / port.name for port in ports if not (trunk.parent / port.name / "tun_flags").exists()]


def _ip(*arguments: str) -> None:
    process.run(("ip", *arguments), timeout_s=_TIMEOUT_S)
