"""What a host must have before a VM runs on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_agent import vlan_requests
from ostler_agent.image_header import read_header
from ostler_agent.network_devices import SYS_CLASS_NET
from ostler_agent.spec import NicSpec, VolumeRef


def check_volume(volume: VolumeRef, path: Path) -> None:
    """Checks the header of a volume before a hypervisor opens it: others may write to its pool.

    Raises FailedPreconditionError VOLUME_MISSING; NOT_AN_IMAGE for a link, a device or what has another format;
    BACKING_FILE_REFUSED, NOT_ENCRYPTED, KEY_MISSING.
    """
    try:
        header = read_header(path, volume.format, encrypted=volume.key is not None)
    except NotFoundError:
        raise FailedPreconditionError(
            f"volume {volume.volume_id} is not on this host: no file or device {path} (is its pool mounted?)",
            "VOLUME_MISSING",
            {"volume": volume.volume_id, "path": str(path)},
        ) from None
    if header.encrypted and not volume.key:
        raise FailedPreconditionError(
            f"volume {volume.volume_id} is encrypted, but came without a key (was its file replaced?)",
            "KEY_MISSING",
            {"volume": volume.volume_id},
        )
    if volume.key and not header.encrypted:
        raise FailedPreconditionError(
            f"volume {volume.volume_id} is not encrypted, but a key was given (was its file replaced?)",
            "NOT_ENCRYPTED",
            {"volume": volume.volume_id},
        )


def check_networks(nics: Iterable[NicSpec]) -> None:
    """Checks the bridges of interfaces; creates those of VLANs.

    Raises FailedPreconditionError BRIDGE_MISSING, MTU_TOO_LARGE, and what `vlan_requests.ensure` raises.
    """
    nics = list(nics)
    for nic in nics:
        _check_bridge(nic.trunk or nic.bridge, nic.mtu)
    vlan_requests.ensure(nics, SYS_CLASS_NET)


def _check_bridge(bridge: str, mtu: int) -> None:
    device = SYS_CLASS_NET / bridge
    # An Open vSwitch bridge has no "bridge" directory; libvirt cannot use it by this name.
    if "/" in bridge or not (device / "bridge").is_dir():
        raise FailedPreconditionError(
            f"this host has no bridge {bridge} (create it, or choose another network)",
            "BRIDGE_MISSING",
            {"bridge": bridge},
        )
    if mtu and int((device / "mtu").read_text()) < mtu:
        raise FailedPreconditionError(
            f"bridge {bridge} of this host has a smaller MTU than the network's {mtu} (raise it on its uplink)",
            "MTU_TOO_LARGE",
            {"bridge": bridge, "mtu": str(mtu)},
        )
