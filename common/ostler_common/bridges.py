"""Names of the bridges that networks use: the agent creates the bridges of VLANs, the control plane recognizes them."""

from __future__ import annotations

MAX_BRIDGE_NAME = 15  # Linux names devices with at most 15 characters
MAX_VLAN = 4094
# What `bridge_of` adds to a name with the longest tag.
MAX_VLAN_TRUNK_NAME = MAX_BRIDGE_NAME - len(f"v{MAX_VLAN}")


def bridge_of(trunk: str, vlan: int) -> str:
    """The bridge that VMs are on: the trunk itself with VLAN 0, else a bridge of the VLAN's own."""
    return f"{trunk}v{vlan}" if vlan else trunk
