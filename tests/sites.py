"""A control plane's database with hosts whose agents work in memory, and the engine between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from ostler_common.channel import TRANSPORT_OPTIONS
from ostler_common.hypervisors import Function
from ostler_common.tls import TlsFiles
from ostler_control import vms
from ostler_control.agents import Agents
from ostler_control.api import work as _verbs  # noqa: F401 - registers them
from ostler_control.caller import Caller, Role
from ostler_control.database import transaction
from ostler_control.keys import Keyring, create_key_file, open_provider
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import (
    Account,
    Backup,
    BackupDisk,
    BackupFirmwareState,
    BackupStore,
    BackupTpm,
    Cluster,
    DiskOffering,
    FenceDevice,
    Host,
    HostFunction,
    Network,
    Operation,
    Passphrase,
    Pool,
    PoolHost,
    ServiceOffering,
    Snapshot,
    StoreBucket,
    Template,
    UserData,
    Vm,
    VmFirmwareState,
    VmSnapshot,
    VmSnapshotFirmwareState,
    VmSnapshotMemory,
    VmTpm,
    VmUserData,
    Volume,
    VolumeFile,
    Zone,
    new_id,
    now,
)
from ostler_control.objects import stores
from ostler_control.objects.bucket import Bucket
from ostler_control.operations import Engine, launch, replica_id
from ostler_control.operations.records import error_from_json
from ostler_control.scheduling import capacity

from tests.fakes.working_agent import FakeHost, Fleet

MIB, GIB = 1 << 20, 1 << 30


class _ServerCredentials(TlsFiles):
    def version(self) -> tuple[tuple[int, int, int], ...]:
        return ()


def new_agents(state_dir: Path, unreachable_limit_s: float = 5.0) -> Agents:
    """Agents that are spoken to without TLS."""
    return Agents(
        _ServerCredentials(state_dir, state_dir, state_dir),
        unreachable_limit_s,
        lambda address, tls, name: grpc.insecure_channel(
            address,
            [*TRANSPORT_OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("SingleThreadedUnaryStream", 1)],
        ),
    )


# Tests of crashes hold hundreds of operations.
MANY = 1000


def new_engine(state_dir: Path, unreachable_limit_s: float = 5.0, limit: int = MANY) -> Engine:
    """An engine whose agents are spoken to without TLS. A busy machine answers within `unreachable_limit_s`. limit: how
    many operations of a kind run at once."""
    create_key_file(state_dir / "kek")
    agents = new_agents(state_dir, unreachable_limit_s)
    keys = Keyring(open_provider(state_dir))
    return Engine(replica_id(state_dir), agents, keys, state_dir / "templates", limit=limit)


@dataclass
class Site:
    """h1 and h2 prove encryption, h3 does not. All reach `shared`; `local1` is h1's and `local2` h2's."""

    url: str
    state_dir: Path
    fleet: Fleet
    keys: Keyring
    account: Any
    network: Any
    pools: dict[str, Any]
    template: Any
    plain: Any
    encrypted: Any
    disks: dict[str, Any]
    hosts: dict[str, FakeHost]

    def host(self, name: str) -> Any:
        """The host's row, as it is now."""
        return Host.get(Host.name == name)

    def at(self, row: Any) -> FakeHost:
        """The agent of the host with this id."""
        return self.fleet.hosts[row]

    def admin(self) -> Caller:
        return Caller(Role.ADMIN, new_id(), "root", self.account.id)

    def record(self, make: Callable[[], Operation]) -> Any:
        """What a handler does: records and launches."""
        with transaction():
            operation = make()
        launch(operation)
        return operation

    def new_vm(self, name: str, **wanted: Any) -> Operation:
        """Records, within a transaction, an encrypted VM that is wanted."""
        fields = {"account": self.account, "template": self.template, "offering": self.encrypted, **wanted}
        return vms.create(vms.NewVm(name, **fields), "alice", self.keys)

    def add_backup_store(self) -> Any:
        """The store for backups `store`, which all hosts reach; once."""
        pool = Pool.get_or_none(Pool.name == "store")
        if pool is None:
            pool = Pool.create(
                name="store", type="nfs", scope="zone", scope_id=self.host("h1").cluster.zone_id, shared=True,
                encryption=True, capacity_bytes=1 << 40, available_bytes=1 << 40,
            )  # fmt: skip
            BackupStore.create(pool=pool)
            self.fleet.pools[pool.id] = {}
            for fake in self.hosts.values():
                PoolHost.create(pool=pool, host=fake.host_id, reachable=True)
                fake.pools.add(pool.id)
        return pool

    def add_bucket_store(self, bucket: Bucket) -> Any:
        """The store for backups `bucket`, which all hosts reach; once. Its bucket is renewed."""
        pool = Pool.get_or_none(Pool.name == "bucket")
        if pool is None:
            pool = Pool.create(
                name="bucket", type="s3", scope="zone", scope_id=self.host("h1").cluster.zone_id, shared=True,
                encryption=True,
            )  # fmt: skip
            BackupStore.create(pool=pool)
            self.fleet.spools.add(pool.id)
            for fake in self.hosts.values():
                PoolHost.create(pool=pool, host=fake.host_id, reachable=True)
                fake.pools.add(pool.id)
        self.remove_bucket(pool)
        with transaction():
            stores.create(pool, bucket, self.keys)
        return pool

    def remove_bucket(self, pool: Any) -> None:
        key_id = stores.passphrase_of(pool.id)
        StoreBucket.delete().where(StoreBucket.pool == pool).execute()
        delete_passphrase(key_id)

    def silence(self, name: str) -> None:
        """The host's agent does not answer, and the watcher has noticed."""
        self.hosts[name].stop()
        Host.update(state="disconnected", state_time=now()).where(Host.name == name).execute()

    def revive(self, name: str) -> None:
        self.hosts[name].start()
        Host.update(state="up", state_time=now()).where(Host.name == name).execute()

    def check_whole(self, lost_hosts: bool = False) -> None:
        """Nothing has leaked: claims, keys, files, copies, held objects.

        lost_hosts: there were operations that lost their host. A deletion leaves the VM failed, and maybe running, to
        be deleted again; a start or a stop leaves it running, and its power state says what its host has told since.
        A host that was silent when a VM started elsewhere keeps its definition, which does not run.
        """
        assert capacity.audit() == []
        held = [
            row.name
            for model in (Vm, Volume, Snapshot, VmSnapshot, Backup)
            for row in model.select().where(model.operation_id != "")
        ]
        assert held == []
        keys = {row.id for row in Passphrase.select()}
        rows: list[Any] = list(Volume.select())
        kept: list[Any] = [*rows, *Snapshot.select()]
        assert list(VolumeFile.select()) == [], "files that were not swept"
        documents: list[Any] = [*UserData.select(), *VmUserData.select()]
        others = {
            row.passphrase_id
            for model in (
                *(FenceDevice, StoreBucket, VmTpm, VmFirmwareState),
                *(VmSnapshotFirmwareState, BackupFirmwareState, BackupTpm),
            )
            for row in model.select()
            if row.passphrase_id
        }
        backed_up: list[Any] = [*BackupDisk.select(), *VmSnapshotMemory.select()]
        assert keys == {row.passphrase_id for row in (*kept, *backed_up, *documents) if row.passphrase_id} | others
        assert [row.id for row in VmUserData.select() if row.operation_id] == [], "user data that waits for nothing"
        files = self.fleet.files()
        assert self.fleet.parts == set(), "files that are not complete"
        assert set(files) <= {row.file_id for row in (*kept, *backed_up)}, (
            "files that no volume, snapshot or backup knows"
        )
        for row in kept:
            if row.state == "ready":
                assert files.get(row.file_id) == row.pool_id, f"{row.name} has no file in its pool"
                opened = self.keys.open(row).reveal() if row.passphrase_id else b""
                file = self.fleet.pools[row.pool_id][row.file_id]
                assert file.passphrase == opened, f"{row.name} does not open"
                assert not file.also, f"{row.name} is opened by a second key"
        for disk in BackupDisk.select():
            if disk.backup.state == "ready":
                in_bucket = disk.pool_id in self.fleet.spools
                file = (self.fleet.sent if in_bucket else self.fleet.pools[disk.pool_id])[disk.file_id]
                assert file.passphrase == self.keys.open(disk).reveal(), f"{disk.name} does not open"
                assert disk.encrypt_format == "luks"
                assert disk.sha256
        for memory in VmSnapshotMemory.select():
            if memory.vm_snapshot.state == "ready":
                file = self.fleet.pools[memory.pool_id][memory.file_id]
                assert file.passphrase == self.keys.open(memory).reveal(), f"{memory.name} does not open"
        copies = [volume_id for pool in self.fleet.pools.values() for volume_id in pool]
        assert len(copies) == len(set(copies)), "a volume has two files"
        machines: list[Any] = list(Vm.select())
        known = {row.id for row in machines}
        for fake in self.fleet.hosts.values():
            unknown = {vm_id for vm_id in set(fake.vms) - known if fake.runs(vm_id) or not lost_hosts}
            assert unknown == set(), f"host {fake.name} knows VMs that nobody knows: {unknown}"
        for vm in machines:
            where = self.fleet.running_on(vm.id)
            if vm.state == "running":
                is_on = vm.power_state.is_executing or not lost_hosts
                assert where == ([vm.host.name] if is_on else []), f"VM {vm.name} runs on {where}"
            if vm.state == "stopped" or (vm.state == "failed" and not lost_hosts):
                assert where == [], f"VM {vm.name} is {vm.state} and runs on {where}"
        in_use = {
            disk.passphrase_id
            for vm in machines
            if vm.state == "running" or (vm.state == "failed" and lost_hosts)
            for disk in rows
            if disk.vm_id == vm.id
        } | {row.passphrase_id for row in VmTpm.select()}
        for fake in self.fleet.hosts.values():
            assert fake.secrets <= in_use, f"host {fake.name} holds secrets that nothing needs"


def new_site(url: str, state_dir: Path, agents_dir: Path | None = None) -> Site:
    """Fills the bound, empty database. agents_dir: what the hosts' agents write down; by default it is the same."""
    fleet = Fleet(agents_dir or state_dir)
    zone = Zone.create(name="zone")
    cluster = Cluster.create(name="cluster", zone=zone, cpu_overcommit=4.0, memory_overcommit=4.0)
    hosts: dict[str, FakeHost] = {}
    for name in ("h1", "h2", "h3"):
        host_id = new_id()
        fake = fleet.add_host(name, host_id)
        hosts[name] = fake
        capable = name != "h3"
        Host.create(
            id=host_id, name=name, address=fake.address, cluster=cluster, state="up", hypervisor_type="kvm",
            cpus=64, memory_bytes=256 * GIB, volume_encryption=capable, uefi=True, bridges="br0",
            template_formats="qcow2,raw", functions=",".join(sorted(Function)),
            capabilities="" if capable else _FAILED_PROBE,
        )  # fmt: skip
        for function in (Function.NIC_FILTER, Function.SECURE_BOOT, Function.TPM):
            HostFunction.create(host=host_id, function=function)
    pools = {}
    for name, members in (("shared", ("h1", "h2", "h3")), ("local1", ("h1",)), ("local2", ("h2",))):
        shared = name == "shared"
        pools[name] = Pool.create(
            name=name, type="shared-mount-point" if shared else "local", scope="zone" if shared else "host",
            scope_id=zone.id if shared else hosts[members[0]].host_id, path=f"/{name}", shared=shared, encryption=True,
            capacity_bytes=1 << 40, available_bytes=1 << 40, measure_time=now(),
        )  # fmt: skip
        for member in members:
            PoolHost.create(pool=pools[name], host=hosts[member].host_id, reachable=True)
            hosts[member].pools.add(pools[name].id)
    create_key_file(state_dir / "kek")
    return Site(
        url=url,
        state_dir=state_dir,
        fleet=fleet,
        keys=Keyring(open_provider(state_dir)),
        account=Account.create(name="acme"),
        network=Network.create(name="public", zone=zone, bridge="br0", all_accounts=True),
        pools=pools,
        template=Template.create(
            name="tiny", format="qcow2", virtual_size_bytes=10 * MIB, file_size_bytes=MIB, sha256="0" * 64
        ),
        plain=ServiceOffering.create(name="plain", cpus=1, memory_bytes=GIB),
        encrypted=ServiceOffering.create(name="encrypted", cpus=1, memory_bytes=GIB, encrypt_root=True),
        disks={
            "plain": DiskOffering.create(name="plain"),
            "raw": DiskOffering.create(name="raw", format="raw"),
            "encrypted": DiskOffering.create(name="encrypted", encrypt=True),
            "thick": DiskOffering.create(name="thick", provisioning="thick", size_bytes=GIB),
        },
        hosts=hosts,
    )


_FAILED_PROBE = '{"probes": [{"name": "volume-encryption.qemu-img", "reason": "no luks driver"}]}'


@contextlib.contextmanager
def site_at_work(url: str, state_dir: Path) -> Iterator[tuple[Site, Engine]]:
    """A site with its engine running."""
    site = new_site(url, state_dir)
    engine = new_engine(state_dir)
    try:
        engine.start()
        yield site, engine
    finally:
        engine.stop()
        engine.agents.close()
        site.fleet.stop()


def outcome(engine: Engine, operation: Any, timeout_s: float = 30.0) -> tuple[str, str]:
    """How an operation ended: its state, and the error's reason or ""."""
    row: Any = engine.wait(operation.id, timeout_s)
    return row.state, error_from_json(row.error).reason if row.error else ""
