"""Bridges of VLANs: created when the first VM needs one, and kept until the host restarts.

A VLAN has a bridge of its own, on a VLAN device of each uplink of the bridge that the network names. So guests never
see tags, and the kernel keeps the VLANs apart: no port of the untagged bridge leads into a VLAN.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent import process
from ostler_agent.spec import NicSpec

NETWORK_DEVICES = Path("/sys/class/net")  # the kernel's list
_TIMEOUT_S = 10
_lock = threading.Lock()


def name_of(trunk: str, vlan: int) -> str:
    """Name of the bridge of a VLAN."""
    return f"{trunk}v{vlan}"


def ensure(nics: Iterable[NicSpec], devices: Path = NETWORK_DEVICES) -> None:
    """Creates the bridges of VLANs that these interfaces are on. Idempotent: completes what a crash left half done.

    Raises FailedPreconditionError VLAN_UPLINK_MISSING, and `process.RunError`.
    """
    with _lock:
        for nic in nics:
            if nic.vlan:
                _ensure(nic, devices)


def _ensure(nic: NicSpec, devices: Path) -> None:
    uplinks = _uplinks(devices / nic.trunk)
    if not uplinks:
        raise FailedPreconditionError(
            f"bridge {nic.trunk} has no uplink that could carry VLAN {nic.vlan} (add the host's network device to it)",
            "VLAN_UPLINK_MISSING",
            {"bridge": nic.trunk, "vlan": str(nic.vlan)},
        )
    if not (devices / nic.bridge).exists():
        _ip("link", "add", nic.bridge, "type", "bridge")
    # Before it is up: the host itself has no address in the VLAN.
    _ip("link", "set", nic.bridge, "addrgenmode", "none")
    for uplink in uplinks:
        # An uplink's own name may be too long to add the tag to it.
        device = f"v{nic.vlan}i{(uplink / 'ifindex').read_text().strip()}"
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
