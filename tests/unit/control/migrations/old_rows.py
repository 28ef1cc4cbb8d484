"""Rows as older releases wrote them, for migrations to find."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ostler_control import database
from ostler_control.models import db
from playhouse.migrations import Runner

MIGRATIONS = Path(database.__file__).parent / "migrations"
OLD_VM = (
    "INSERT INTO zone (id, create_time, name) VALUES ('z', '2026-01-01', 'zone')",
    "INSERT INTO cluster (id, create_time, name, zone_id, hypervisor_type, cpu_overcommit, memory_overcommit, enabled) "
    "VALUES ('c', '2026-01-01', 'cluster', 'z', 'kvm', 1, 1, 1)",
    "INSERT INTO host (id, create_time, name, address, cluster_id, state, state_reason, state_time, enabled, "
    "maintenance, maintenance_reason, removed, agent_version, hypervisor_type, cpus, memory_bytes, volume_encryption, "
    "uefi, bridges, template_formats, functions, allocated_cpus, allocated_memory_bytes, capabilities, load, "
    "smooth_load) VALUES ('h', '2026-01-01', 'h1', 'h1:1', 'c', 'up', '', '2026-01-01', 1, 0, '', 0, '', 'kvm', 1, 1, "
    "1, 1, '', '', '', 0, 0, '', '', '')",
    "INSERT INTO account (id, create_time, name) VALUES ('a', '2026-01-01', 'acme')",
    "INSERT INTO service_offering (id, create_time, name, cpus, memory_bytes, encrypt_root) "
    "VALUES ('o', '2026-01-01', 'small', 1, 1, 0)",
    "INSERT INTO vm (id, create_time, name, account_id, service_offering_id, template_name, cpus, memory_bytes, "
    "firmware, hypervisor_type, state, state_time, power_state, attention, operation_id, drs_skip) "
    "VALUES ('v', '2026-01-01', 'web', 'a', 'o', '', 1, 1, 'bios', 'kvm', 'stopped', '2026-01-01', '', '', '', 0)",
)
OLD_IMPORT = (
    "INSERT INTO kek (id, create_time, name, current, operation_id) VALUES ('e', '2026-01-01', 'e', 1, '')",
    "INSERT INTO passphrase (id, create_time, kek_id, sealed, bound_id) VALUES ('k', '2026-01-01', 'e', X'00', 's')",
    "INSERT INTO import_source (id, create_time, name, type, address, username, ca_pem, thumbprint, passphrase_id) "
    "VALUES ('s', '2026-01-01', 'vc1', 'vmware', 'vc', 'u', '', '', 'k')",
    "INSERT INTO pool (id, create_time, name, type, path, source, options, scope, scope_id, shared, encryption, "
    "fingerprint, capacity_bytes, available_bytes) "
    "VALUES ('p', '2026-01-01', 'p1', 'nfs', '/p', '', '{}', 'zone', 'z', 1, 1, '', 1, 1)",
    "INSERT INTO vm_import (id, create_time, source_id, source_ref, vm_id, pool_id, host_id, claimed_bytes) "
    "VALUES ('i', '2026-01-01', 's', 'vm-1', 'v', 'p', 'h', 5)",
    "INSERT INTO import_file (id, create_time, vm_import_id, name, size_bytes, sha1, sha256) "
    "VALUES ('f', '2026-01-01', 'i', 'disk.vmdk', 1, '', '')",
)
OLD_NICS = (
    "UPDATE vm SET host_id = 'h' WHERE id = 'v'",
    "INSERT INTO zone (id, create_time, name) VALUES ('y', '2026-01-02', 'far')",
    "INSERT INTO cluster (id, create_time, name, zone_id, hypervisor_type, cpu_overcommit, memory_overcommit, enabled) "
    "VALUES ('d', '2026-01-01', 'far', 'y', 'kvm', 1, 1, 1)",
    "INSERT INTO host (id, create_time, name, address, cluster_id, state, state_reason, state_time, enabled, "
    "maintenance, maintenance_reason, removed, agent_version, hypervisor_type, cpus, memory_bytes, volume_encryption, "
    "uefi, bridges, template_formats, functions, allocated_cpus, allocated_memory_bytes, capabilities, load, "
    "smooth_load) VALUES ('g', '2026-01-01', 'h2', 'h2:1', 'd', 'up', '', '2026-01-01', 1, 0, '', 0, '', 'kvm', 1, 1, "
    "1, 1, '', '', '', 0, 0, '', '', '')",
    "INSERT INTO vm (id, create_time, name, account_id, service_offering_id, template_name, cpus, memory_bytes, "
    "firmware, hypervisor_type, state, state_time, power_state, attention, operation_id, drs_skip, last_host_id) "
    "VALUES ('w', '2026-01-01', 'db', 'a', 'o', '', 1, 1, 'bios', 'kvm', 'stopped', '2026-01-01', '', '', '', 0, 'g')",
    *(
        "INSERT INTO nic (id, create_time, vm_id, position, mac, bridge, model) "
        f"VALUES ('n{number}', '2026-01-01', '{vm}', {position}, '52:54:00:00:00:0{number}', '{bridge}', '{model}')"
        for number, vm, position, bridge, model in (
            (1, "v", 0, "br0", "virtio"),
            (2, "v", 1, "br1", "e1000"),
            (3, "w", 0, "br0", "virtio"),
        )
    ),
    "INSERT INTO nic_addressing (id, create_time, nic_id, addresses, gateways, nameservers) "
    "VALUES ('s', '2026-01-01', 'n1', '[\"192.0.2.7/24\"]', '[]', '[]')",
)


def up_to(migration: str, rows: Iterable[str] = ()) -> None:
    """The database as that migration leaves it, with these rows."""
    Runner(db.obj, str(MIGRATIONS)).up(migration)
    for statement in rows:
        db.execute_sql(statement)
