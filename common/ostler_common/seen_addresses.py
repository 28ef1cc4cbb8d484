"""What counts as an IP address that a guest is seen to use: the agent and the control plane both check it."""

from __future__ import annotations

import re
from ipaddress import ip_address

MAX_SEEN_ADDRESSES = 64
MAX_ADDRESS_LENGTH = 45  # of an IPv6 address with an IPv4 address inside
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


def is_usable(mac: str, address: str) -> bool:
    """Whether these are a MAC address and an IP address at which others may reach the guest."""
    if len(address) > MAX_ADDRESS_LENGTH or not _MAC.fullmatch(mac):
        return False
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified or found.is_multicast or found.is_link_local)
