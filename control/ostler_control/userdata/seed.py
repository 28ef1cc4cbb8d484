"""The NoCloud seed: the files on the CD-ROM labelled "cidata" that cloud-init reads at boot.

Formats: https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html and, for network-config,
https://docs.cloud-init.io/en/latest/reference/network-config-format-v2.html.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import yaml
from ostler_common.errors import bad_field

MAX_SSH_KEYS = 50
_MAX_KEY_LENGTH = 16_384
_SSH_KEY = re.compile(r"(ssh-(rsa|dss|ed25519)|ecdsa-sha2-nistp\d+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]{16,}={0,2}( [ -~]*)?")
_NO_VENDOR_DATA = b"#cloud-config\n{}\n"


@dataclass(frozen=True)
class SeedNic:
    """A network interface. addresses: "192.0.2.10/24", IPv6 too; none: DHCP. gateways: one per address family."""

    mac: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()


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
    """The seed of a guest; raises InvalidArgumentError for an SSH key or an address that is none."""
    return Seed(user_data, _meta_data(guest), _network_config(guest.nics))


def instance_id(vm_id: str, generation: int) -> str:
    """The id by which cloud-init knows whether it has run already: of the VM and of how often its disk was made."""
    return f"{vm_id}-{generation}" if generation else vm_id


def check_ssh_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """The keys, each once, without surrounding space; raises InvalidArgumentError INVALID_SSH_KEY."""
    bare = tuple(dict.fromkeys(key.strip() for key in keys))
    if len(bare) > MAX_SSH_KEYS:
        raise bad_field("ssh_keys", f"a VM gets at most {MAX_SSH_KEYS} SSH keys", "INVALID_SSH_KEY")
    for number, key in enumerate(bare):
        if len(key) > _MAX_KEY_LENGTH or not _SSH_KEY.fullmatch(key):
            raise bad_field(
                f"ssh_keys[{number}]",
                "must be a public key, as in id_ed25519.pub: type, key, comment",
                "INVALID_SSH_KEY",
            )
    return bare


def _meta_data(guest: Guest) -> bytes:
    data: dict[str, object] = {**guest.variables, "instance-id": guest.instance_id, "local-hostname": guest.hostname}
    if guest.ssh_keys:
        data["public-keys"] = list(guest.ssh_keys)
    return _dump(data)


def _network_config(nics: Sequence[SeedNic]) -> bytes:
    ethernets = {f"nic{number}": _ethernet(nic, number) for number, nic in enumerate(nics)}
    return _dump({"version": 2, **({"ethernets": ethernets} if ethernets else {})})


def _ethernet(nic: SeedNic, number: int) -> dict[str, object]:
    match = {"match": {"macaddress": nic.mac}}
    if not nic.addresses:
        return {**match, "dhcp4": True}  # IPv6 comes by router advertisements, without asking
    path = f"nics[{number}]"
    for address in nic.addresses:
        _check(
            f"{path}.addresses", address, ipaddress.ip_interface, "an address with its prefix, such as 192.0.2.10/24"
        )
    for plain in (*nic.gateways, *nic.nameservers):
        _check(f"{path}.gateways or nameservers", plain, ipaddress.ip_address, "an address, such as 192.0.2.1")
    device: dict[str, object] = {**match, "addresses": list(nic.addresses)}
    if nic.gateways:
        device["routes"] = [{"to": "::/0" if ":" in via else "0.0.0.0/0", "via": via} for via in nic.gateways]
    if nic.nameservers:
        device["nameservers"] = {"addresses": list(nic.nameservers)}
    return device


def _check(path: str, text: str, parse: Callable[[str], object], what: str) -> None:
    try:
        parse(text)
    except ValueError:
        raise bad_field(path, f"must be {what}", "INVALID_ADDRESS") from None
    if "/" not in text and parse is ipaddress.ip_interface:
        raise bad_field(path, f"must be {what}", "INVALID_ADDRESS")


def _dump(data: Mapping[str, object]) -> bytes:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True).encode()
