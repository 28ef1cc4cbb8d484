"""The names that a host's certificate may have: what a joining host says of itself is not trusted.

A host is verified by its id. Its name and address are in its certificate too, for libvirt, so neither may be another
host's, the control plane's, or what every machine calls itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from ostler_common.address import split_address
from ostler_common.errors import AlreadyExistsError, bad_field

from ostler_control.catalog.names import is_id
from ostler_control.database import is_sqlite
from ostler_control.models import Host, Zone, first_tuple, tuples

_HOST_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?", re.ASCII)
# What resolvers take for an IP address: a last part that is a number (RFC 3696, section 2).
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)


def host_name(name: str, field: str = "name") -> str:
    """The name in lower case, as it is recorded. Raises InvalidArgumentError INVALID_NAME unless it can be a host's."""
    lower = name.lower()
    if not _HOST_NAME.fullmatch(lower):
        raise bad_field(field, "must be 1 to 63 letters, digits, dots and hyphens, as host names are", "INVALID_NAME")
    if is_id(lower):
        raise bad_field(field, "must not look like an id (a UUID)", "INVALID_NAME")
    if _NUMBER.fullmatch(lower):
        raise bad_field(field, "must not look like an IP address: its last part must not be a number", "INVALID_NAME")
    if _is_localhost(lower):
        raise bad_field(field, "must not be localhost, which is every machine's name for itself", "INVALID_NAME")
    return lower


def address_name(address: str, field: str = "address") -> str:
    """The IP address or name of an address "host:port", in one spelling.

    Raises InvalidArgumentError INVALID_ADDRESS for loopback and for what is no host's address.
    """
    return _address_name(split_address(address, field)[0], field)


def pinned_address(text: str, field: str) -> str:
    """An IP address or name without a port, in one spelling; "" stays "". Raises what `address_name` raises."""
    return _address_name(text.strip("[]"), field) if text else ""


def _address_name(name: str, field: str) -> str:
    one = one_spelling(name)
    try:
        ip = ipaddress.ip_address(one)
    except ValueError:
        if _NUMBER.fullmatch(one) or not all(map(_HOST_NAME.fullmatch, one.split("."))):
            raise bad_field(field, "must be an IP address or a host name", "INVALID_ADDRESS") from None
        own = not _is_localhost(one)
    else:
        own = not (ip.is_loopback or ip.is_unspecified or ip.is_multicast)
    if not own:
        raise bad_field(field, "must be an address of this host: not loopback, 0.0.0.0 or multicast", "INVALID_ADDRESS")
    return one


def one_spelling(name: str) -> str:
    """An IP address or name as it is compared: in lower case, IPv6 shortened, an IPv4 address in IPv6 as itself."""
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:
        return name.lower()
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def check_free(names: Collection[str], host_id: str = "", reserved: Collection[str] = ()) -> None:
    """Raises AlreadyExistsError HOST_EXISTS or HOST_ADDRESS_TAKEN when one of these names is another host's name or
    address, or is reserved (the control plane's). Joins take turns until the end of the caller's transaction.

    host_id: whose names they are to be, "" for a new host.
    """
    if not is_sqlite():
        first_tuple(Zone.select(Zone.id).order_by(Zone.id).limit(1).for_update(), tuple[str])
    for name in names:
        if name in reserved:
            raise AlreadyExistsError(
                f"{name} is the control plane's (if the host is the same machine, an admin creates a token with --name "
                "and --address)",
                "HOST_ADDRESS_TAKEN",
                {"address": name},
            )
    query = Host.select(Host.id, Host.name, Host.address).where(~Host.removed)
    for other_id, other_name, address in tuples(query, tuple[str, str, str]):
        if other_id == host_id:
            continue
        if other_name.lower() in names:
            raise AlreadyExistsError(
                f"there is a host {other_name} already (to let it rejoin: `ostler host token CLUSTER --rejoin "
                f"{other_name}`)",
                "HOST_EXISTS",
                {"host": other_name},
            )
        taken = one_spelling(split_address(address)[0])
        if taken in names:
            raise AlreadyExistsError(
                f"{taken} is the address of host {other_name} already", "HOST_ADDRESS_TAKEN", {"host": other_name}
            )


def _is_localhost(name: str) -> bool:
    return name.split(".")[0] in ("localhost", "localhost6", "ip6-localhost") or name.endswith(".localhost")
