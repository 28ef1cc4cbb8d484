"""The NoCloud seed: the files on the CD-ROM labelled "cidata" that cloud-init reads at boot.

Formats: https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html and, for network-config,
https://docs.cloud-init.io/en/latest/reference/network-config-format-v2.html.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml
from ostler_common.errors import bad_field

MAX_ADDRESSES = 16
_NO_VENDOR_DATA = b"#cloud-config\n{}\n"


@dataclass(frozen=True)
class Addressing:
    """The static addresses of a network interface, each with its prefix ("192.0.2.10/24"); IPv6 too. None: DHCP."""

    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()


DHCP = Addressing()


@dataclass(frozen=True)
class SeedNic:
    """A network interface as its guest is to set it up."""

    mac: str
    addressing: Addressing = DHCP


@dataclass(frozen=True)
class Guest:
    """What the seed tells a guest about itself, beside user data. instance_id: a new one makes cloud-init run anew."""

    instance_id: str
    hostname: str
    nics: tuple[SeedNic, ...] = ()
    ssh_keys: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Seed:
    """The files of a seed, by their names on the CD-ROM."""

    user_data: bytes = field(repr=False)
    meta_data: bytes = field(repr=False)
    network_config: bytes = field(repr=False)
    vendor_data: bytes = field(default=_NO_VENDOR_DATA, repr=False)

    def files(self) -> dict[str, bytes]:
        """Name to content, in the order of the names."""
        return {
            "meta-data": self.meta_data,
            "network-config": self.network_config,
            "user-data": self.user_data,
            "vendor-data": self.vendor_data,
        }


def make(guest: Guest, user_data: bytes) -> Seed:
    """The seed of a guest."""
    return Seed(user_data, _meta_data(guest), _network_config(guest.nics))


def instance_id(vm_id: str, generation: int) -> str:
    """The id by which cloud-init knows whether it has run already: of the VM and of how often its disk was made."""
    return f"{vm_id}-{generation}" if generation else vm_id


def _meta_data(guest: Guest) -> bytes:
    data: dict[str, object] = {**guest.variables, "instance-id": guest.instance_id, "local-hostname": guest.hostname}
    if guest.ssh_keys:
        data["public-keys"] = list(guest.ssh_keys)
    return _dump(data)


def _network_config(nics: Sequence[SeedNic]) -> bytes:
    ethernets = {f"nic{number}": _ethernet(nic) for number, nic in enumerate(nics)}
    return _dump({"version": 2, **({"ethernets": ethernets} if ethernets else {})})


def _ethernet(nic: SeedNic) -> dict[str, object]:
    match, static = {"match": {"macaddress": nic.mac}}, nic.addressing
    if not static.addresses:
        return {**match, "dhcp4": True}  # IPv6 comes by router advertisements, without asking
    device: dict[str, object] = {**match, "addresses": list(static.addresses)}
    if static.gateways:
        device["routes"] = [{"to": "::/0" if ":" in via else "0.0.0.0/0", "via": via} for via in static.gateways]
    if static.nameservers:
        device["nameservers"] = {"addresses": list(static.nameservers)}
    return device


def check_addressing(addressing: Addressing, path: str) -> None:
    """Raises InvalidArgumentError INVALID_ADDRESS, naming the field below path."""
    for field_name, texts in (
        ("addresses", addressing.addresses),
        ("gateways", addressing.gateways),
        ("nameservers", addressing.nameservers),
    ):
        where = f"{path}.{field_name}"
        if len(texts) > MAX_ADDRESSES:
            raise bad_field(where, f"must be at most {MAX_ADDRESSES}", "INVALID_ADDRESS")
        if texts and not addressing.addresses:
            raise bad_field(where, "is for interfaces with static addresses; give addresses, too", "INVALID_ADDRESS")
        for text in texts:
            _check(where, text, with_prefix=field_name == "addresses")


def _check(where: str, text: str, *, with_prefix: bool) -> None:
    parse = ipaddress.ip_interface if with_prefix else ipaddress.ip_address
    try:
        parse(text)
        is_valid = ("/" in text) == with_prefix and "%" not in text
    except ValueError:
        is_valid = False
    if not is_valid:
        example = "with its prefix, such as 192.0.2.10/24" if with_prefix else "such as 192.0.2.1"
        raise bad_field(where, f"must be an address {example}", "INVALID_ADDRESS")


def _dump(data: Mapping[str, object]) -> bytes:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True).encode()
