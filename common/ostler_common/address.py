"""Network addresses as people write them."""

from __future__ import annotations

import re
import socket

from ostler_common.errors import bad_field

_ADDRESS = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)


def split_address(address: str, field: str = "address", default_port: int | None = None) -> tuple[str, int]:
    """Splits "host:port" into the host (an IPv6 address without its brackets) and the port.

    default_port: used if the address names no port (None: the port is required). field: named in the error.
    Raises InvalidArgumentError INVALID_FIELD.
    """
    match = _ADDRESS.fullmatch(address)
    port = int(match["port"] or default_port or 0) if match else 0
    if not match or not 0 < port < 65536:
        form = "host:port" if default_port is None else "host[:port]"
        raise bad_field(field, f'must be "{form}", with an IPv6 address in brackets')
    return match["host"].strip("[]"), port


def split_addresses(addresses: str) -> list[str]:
    """Those of a list like "ctl1:8440, ctl2:8440", without spaces and empty parts."""
    return [part.strip() for part in addresses.split(",") if part.strip()]


def resolve(addresses: list[str]) -> list[tuple[str, int]]:
    """The numeric IP addresses and ports of several "host:port", in order; names that do not resolve are left out."""
    found: list[tuple[str, int]] = []
    for address in addresses:
        host, port = split_address(address)
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            continue
        found += [(str(place[0]), int(place[1])) for _, _, _, _, place in answers]
    return list(dict.fromkeys(found))
