"""Whole fleets in the database, for tests and benchmarks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ostler_common.hypervisors import Function
from ostler_control import database
from ostler_control.models import (
    Account,
    Cluster,
    Host,
    Kek,
    Passphrase,
    Pool,
    PoolHost,
    ServiceOffering,
    Vm,
    Volume,
    Zone,
    db,
    new_id,
)
from peewee import chunked

GIB = 1 << 30


@dataclass(frozen=True)
class Fleet:
    """A zone with one cluster; all hosts reach its pool."""

    account: Account
    zone: Zone
    cluster: Cluster
    offering: ServiceOffering
    pool: Pool
    hosts: Sequence[Host]

    def vm(self, name: str, cpus: int = 1, memory_bytes: int = GIB) -> Vm:
        """A stopped VM in the database."""
        row: Vm = Vm.create(
            name=name,
            account=self.account,
            service_offering=self.offering,
            cpus=cpus,
            memory_bytes=memory_bytes,
            state="stopped",
        )
        return row


def make_fleet(
    hosts: int,
    *,
    cpus: int = 16,
    memory_bytes: int = 64 * GIB,
    cpu_overcommit: float = 1.0,
    memory_overcommit: float = 1.0,
    **host_fields: Any,
) -> Fleet:
    """A fleet of equal hosts that are up; host_fields overrides columns of all of them."""
    with database.transaction():
        zone = Zone.create(name="zone")
        cluster = Cluster.create(
            name="cluster", zone=zone, cpu_overcommit=cpu_overcommit, memory_overcommit=memory_overcommit
        )
        pool = Pool.create(
            name="pool", type="nfs", scope="zone", scope_id=zone.id, shared=True, encryption=True,
            capacity_bytes=1 << 50, available_bytes=1 << 49,
        )  # fmt: skip
        rows = [
            Host(
                **{
                    "name": f"h{number}",
                    "address": f"h{number}:8442",
                    "cluster": cluster,
                    "state": "up",
                    "hypervisor_type": "kvm",
                    "cpus": cpus,
                    "memory_bytes": memory_bytes,
                    "volume_encryption": True,
                    "uefi": True,
                    "bridges": "br0,br1",
                    "template_formats": "qcow2,raw",
                    "functions": ",".join(sorted(Function)),
                    "capabilities": json.dumps({"cpuModel": "x" * 3000}),  # about what a real host says of itself
                    **host_fields,
                }
            )
            for number in range(1, hosts + 1)
        ]
        Host.bulk_create(rows, batch_size=500)
        PoolHost.bulk_create([PoolHost(pool=pool, host=host, reachable=True) for host in rows], batch_size=500)
        account = Account.create(name="account")
        offering = ServiceOffering.create(name="small", cpus=1, memory_bytes=GIB)
    return Fleet(account, zone, cluster, offering, pool, rows)


def fill(fleet: Fleet, vms: int, *, cpus: int = 1, memory_bytes: int = GIB) -> None:
    """Adds running VMs, host after host in turn, with the hosts' sums to match."""
    hosts = itertools.cycle(fleet.hosts)
    rows = [
        {
            "id": new_id(),
            "name": f"old{number}",
            "account": fleet.account,
            "service_offering": fleet.offering,
            "cpus": cpus,
            "memory_bytes": memory_bytes,
            "state": "running",
            "host": next(hosts),
        }
        for number in range(vms)
    ]
    with database.transaction():
        for chunk in chunked(rows, 500):
            Vm.insert_many(chunk).execute()
        db.execute_sql(
            "UPDATE host SET allocated_cpus = (SELECT COALESCE(SUM(cpus), 0) FROM vm WHERE vm.host_id = host.id), "
            "allocated_memory_bytes = (SELECT COALESCE(SUM(memory_bytes), 0) FROM vm WHERE vm.host_id = host.id)"
        )
    _analyze()


def _analyze() -> None:
    """As autovacuum would, after a while: without it PostgreSQL takes a table for a small one, and reads all of it."""
    if not database.is_sqlite():
        db.execute_sql("ANALYZE")


def add_disks(fleet: Fleet) -> None:
    """Gives every VM an encrypted root disk in the fleet's pool."""
    with database.transaction():
        kek = Kek.create(name="bench", current=False)
        vms = [(vm.id, vm.name) for vm in Vm.select(Vm.id, Vm.name)]
        for chunk in chunked(vms, 500):
            keys = [{"id": new_id(), "kek": kek, "sealed": b"x", "bound_id": new_id()} for _ in chunk]
            Passphrase.insert_many(keys).execute()
            Volume.insert_many(
                [
                    {
                        "id": key["bound_id"],
                        "file_id": key["bound_id"],
                        "name": f"{name}-root",
                        "account": fleet.account,
                        "pool": fleet.pool,
                        "size_bytes": 10 * GIB,
                        "state": "ready",
                        "encrypt_format": "luks",
                        "passphrase": key["id"],
                        "vm_id": vm_id,
                        "slot": 0,
                        "root": True,
                    }
                    for key, (vm_id, name) in zip(keys, chunk, strict=True)
                ]
            ).execute()
    _analyze()
