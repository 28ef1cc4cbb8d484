"""Addresses for migrations: libvirt and QEMU use TLS; other addresses are refused."""

from __future__ import annotations

from ostler_common.errors import bad_field

from ostler_agent.hypervisors.base import Addresses


def own(host: str) -> Addresses:
    """See `base.LiveMigration.addresses`. QEMU's addresses have the scheme tcp, but the connections use TLS."""
    return Addresses(f"qemu+tls://{host}/system", f"tcp://{host}", f"tcp://{host}")


def check(addresses: Addresses) -> None:
    """See `base.LiveMigration.check_addresses`."""
    if not addresses.hypervisor_uri.startswith("qemu+tls://"):
        raise bad_field("endpoint.hypervisor_uri", "must be a qemu+tls:// address")
    if not addresses.migrate_uri.startswith("tcp://"):
        raise bad_field("endpoint.migrate_uri", "must be a tcp:// address")
    if addresses.disks_uri and not addresses.disks_uri.startswith("tcp://"):
        raise bad_field("endpoint.disks_uri", "must be a tcp:// address")
