from __future__ import annotations

import datetime
import hashlib
import threading
from pathlib import Path

import peewee
import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_common.io_limits import IoLimits
from ostler_control import database
from ostler_control.agents.looks import Look
from ostler_control.catalog import disk_io
from ostler_control.events import verify
from ostler_control.hosts import absences
from ostler_control.models import (
    ALL,
    Account,
    AccountLabel,
    Backup,
    BackupBoot,
    BackupConsistency,
    BackupDisk,
    BackupFirmwareState,
    BackupIncrement,
    BackupLabel,
    BackupSchedule,
    BackupSpool,
    BackupStore,
    BackupTpm,
    Cluster,
    ClusterLabel,
    DiskOfferingIo,
    DrsCondition,
    Event,
    Host,
    HostCpu,
    HostFence,
    HostGuard,
    HostPower,
    HostSilence,
    ImportDiskPassphrase,
    ImportFile,
    ImportPlan,
    ImportPlanVm,
    ImportSource,
    Iso,
    IsoLabel,
    JoinToken,
    Kek,
    KekLabel,
    KvmSource,
    KvmTlsSource,
    LateStart,
    Network,
    NetworkAccount,
    NetworkLabel,
    Nic,
    NicAddressing,
    NicDown,
    OfferingDetail,
    OfferingMaximum,
    Operation,
    OperationStep,
    Passphrase,
    Pool,
    PoolLabel,
    Priority,
    ScheduledBackup,
    ScheduledVmSnapshot,
    ServiceOffering,
    ServiceOfferingLabel,
    Snapshot,
    SnapshotConsistency,
    SnapshotLabel,
    StoreBucket,
    Template,
    TemplateTpm,
    Vm,
    VmCpu,
    VmDescription,
    VmFirmwareState,
    VmImport,
    VmIso,
    VmLabel,
    VmMachine,
    VmMaximum,
    VmPriority,
    VmRestart,
    VmSighting,
    VmSnapshot,
    VmSnapshotDisk,
    VmSnapshotFirmwareState,
    VmSnapshotLabel,
    VmSnapshotMemory,
    VmSnapshotSchedule,
    VmTpm,
    VolumeLimits,
    WarmImport,
    Zone,
    ZoneLabel,
    db,
    now,
)
from ostler_control.operations.records import HELD, release
from ostler_control.templates import tpms
from playhouse.migrations import Runner

from tests import databases

_MIGRATIONS = Path(database.__file__).parent / "migrations"
_SQLITE_SCHEMA = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name <> 'schema_migration' ORDER BY 1, 2"
# No migration after this one changes a table that was there: see below.
LAST_THAT_CHANGED_TABLES = "0018"
# SHA-256 of each migration.
FROZEN = {
    "0001_first": "182710ff48e2e6319de6ebc0ab80040644f5437296874e9d83f8500841749414",
    "0002_thick_provisioning": "bea450d0a62422f6a3e6ae6c78dc961f3cd26374729e2f97e388b9b854b7c909",
    "0003_setting_scopes": "eab2e703812b5a4b7c68520d53180ecc9e198a5a4c0fa488e8fc88f8bc761c53",
    "0004_vm_sighting": "5abc7773afbb15fd322e6f12fab64933f29d942c5ea7eabc64ca81a284b02c60",
    "0005_extra_config": "5570b39de6c6ae4229627786630ca62a52eecb4475c5c4d92e016da54669ea81",
    "0006_imports": "be1a5c090fa6fcfab59617b1cd03abf3c27e14d24bc8faf33c6ee8b758a1df8e",
    "0007_user_data": "c91eaaa483c07b4b16111d6f0e95fd95162f3ec8a505a16a3331fc0d71f209ba",
    "0008_affinity_hosts": "6845f757922a1a84f408cb39f0816b464e59ffef6406288c4428f99225a6c300",
    "0009_file_imports": "4c80107d2d10b759ecf4715b75d777b2e51de6ca6af7843f22555eeef4650bf6",
    "0010_networks": "b3fa3218436ba544b21296a11b01ca4e7906d4858d17685c55ef82cf3a2ec151",
    "0011_warm_imports": "c3480ce1bd67ed645e1fac70d67ec00f634201339fe52d21f9dfb10ee9c79669",
    "0012_ha": "391eab248c30deb0c2b090886a02b2af2a8313c4808dc1997ad66fc82085b379",
    "0013_pinned_tokens": "0ddab81f02be076c14dd9285fe1f20ca45fbfab04a3bc29ac09941e61f899605",
    "0014_import_plans": "dea5781e6737b9dbee7f40feaedb0af0deaa64a20d8ffa2805a371067e119a4f",
    "0015_driver_details": "6cf115810f1fe2d11fea23979bda91359ec93e11d452fb41718903e036235696",
    "0016_labels": "95f8e5524469842581055df388cd0ef0911c6d68e70f3b7166988eb2d87d43c4",
    "0017_drs_conditions": "db317895f74230eb7eac9149f97575f596a092195247e6b9f6fc548cf5db0f2c",
    "0018_event_chain": "0d636d9bec150200b62414504d9d3916a38a676787f7a9ff19e2fbd0981756a5",
    "0019_host_power": "88b810ee6c4b03091558b04a639bc287d40887565964e123c64a34f01b618544",
    "0019_maximum_sizes": "be622ac71665649655d9f2012ccbee546e0b8fafc7239530f48e058b5a0c2048",
    "0020_kvm_imports": "4578a9a1e47dce3a88ace3421f391647678ec199ea17a8403b58c7a64528371b",
    "0021_kvm_tls": "e967a09df10bc6dfdd1974b542e4cf24046e8157fc266ed2a521f2736bcf6e43",
    "0021_nic_links": "360c8759cde5fc2e6d45400397042d225fd72d1e242ab2fd1baea43a7de46d49",
    "0022_io_limits": "f473b87786d9a9298e70c5a78a44daef761a6637c12705c4bc32c0e2a181df8e",
    "0023_more_labels": "cb9ab15f8f5e59a42f57321d55c19dd3b1efbec272265ee67c4743cdf36e496b",
    "0024_backups": "ce6654519307c558632ba903d4bbdbebf7a94eabd73c4a8095335885b5cc347c",
    "0025_snapshot_consistency": "4796e002c78b366434720dd817a94f8e367c70387f6ab8d8454bc3752bf634dc",
    "0026_backup_consistency": "70d7a677f766ac46baacd0066f6b3757e4af89f38de63ee7a988b0a340cf27f8",
    "0027_isos": "3854a72134e7ddd4a605c2c49422c91a3be2fa3f6ab413cffb4b0f6d0a79b82d",
    "0028_machine_types": "01979b0618deffbdce41d39f5d0d0b638bce7f8b70bc390a9076753d80b4229a",
    "0029_backup_schedules": "3a1daf0f4c049fecd15aa1eb3b4aef5a9bb6f8f1b8d7da0bef48de31a83862b8",
    "0030_vm_snapshots": "f79d461f0f73156629ecc7e3ad6f65ad4cdf0a7081a6fd29586ddf2e6a00aef3",
    "0030_vm_snapshots_schedules": "f19d2dfc5932abc42bd8059433848c3e3b829e895651d8492d8299d0d97375e0",
    "0030_vm_snapshots_with_labels": "249813b4b310ed0dc53e89f7b5ae22a3613ff0b4f0eecfec6183371eae9d99a4",
    "0033_held_indexes": "4a3f8faf4e4f09e639e223f15a0de57d80e1c6a39d6260ae1e175d2057e673bd",
    "0034_cpus": "7415e2158f0c57ff51148b22d5a5703178fc68f833f2b589c5b205260e9bd9c7",
    "0032_host_guard": "ff58a8ee1ac810fc38b4f8c7b5fc3004a9fe38ec9ea1a6a4a69b01165917e70d",
    "0034_backup_increments": "f3ae41273ce212b53096e5d6ce2eaba02c5f3072ec9fdf363cadeb48c35cb3ca",
    "0035_backup_boots": "1d64d13de48918d5e8af904244b7973f8b5222bd4ba15b20adff1da6b6d4f799",
    "0036_vm_tpms": "eb890fe2b4caa39fb3e2a9ab2184e181ff9c765145c77a711e122e1b6f6aa4bc",
    "0036_vm_tpms_firmware_states": "36e3dac413027bbf6f3b878958df53f5a813f1f8cde71d22944fd625b16e6793",
    "0037_vm_snapshot_memory": "0694d4fac56be25012ebce5d706f63d25410511bf381dbf40ae0435dd822d791",
    "0038_operation_steps": "99197b8c66cf8fcf97e536bb8cf3f82784c04104568a61c4fe553d9bf3e3b2b0",
    "0039_backup_firmware_states": "b78afb38d65f61061d8b8db8648a2790970cae86474494627947e275750b629d",
    "0040_s3_stores": "0a40f65384805ac9ecfd7f19b9c508c57c0c16dede621af4e70325ffacbfff8d",
    "0041_labels_of_zones_isos_backups": "d00374bdc91cbcf1f187bcd530067df9f1bae09952bb55efeec072c93e687de0",
    "0043_template_tpms": "a2cd94cf2ffec83b62e67cd85e62ed692f3c5c9c41e13a1ca636fa2318294bb2",
    "0044_more_kinds_with_labels": "81abf7f42e764a0f9ee82b190fef1304cc5bfb3311841b122924768d864735bf",
    "0045_vm_absences": "a5fa014c50d2c98b0c1ede8a17386e2aa2e4bbc75c278cb3532ab3c68225f0da",
    "0046_host_silence": "c1587e70121a4db1ca041ba136fc7b5c626c06b03c2cef2cf4b66f4ec88a21cf",
    "0047_late_start": "bfdc8ff2891a059f72735fb44ac4c3e2d26a059ebf74fa25df474abfd3a0e4e8",
}
_OLD_VM = (
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
_COLUMNS = """
    SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'schema_migration' ORDER BY 1, 3
"""
_INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'schema_migration' ORDER BY 1
"""
_CONSTRAINTS = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 'schema_migration'::regclass ORDER BY 1
"""
_OLD_IMPORT = (
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
_OLD_NICS = (
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


def _schema() -> list[list[tuple[object, ...]]]:
    queries = [_SQLITE_SCHEMA] if database.is_sqlite() else [_COLUMNS, _INDEXES, _CONSTRAINTS]
    return [db.execute_sql(query).fetchall() for query in queries]


def test_migrations_make_exactly_the_schema_that_the_models_describe(own_database: str) -> None:
    migrated = _schema()
    db.drop_tables(ALL)
    assert _schema() != migrated
    db.create_tables(ALL)
    assert _schema() == migrated


def test_a_migration_never_changes_once_it_is_here() -> None:
    """A database that has applied it would be taken for current and lack what the change adds: write a new one."""
    digests = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in _MIGRATIONS.glob("0*.py")}
    assert {name: digests.get(name) for name in FROZEN} == FROZEN
    newer = sorted(set(digests) - set(FROZEN))
    assert all(name > max(FROZEN) for name in newer), "a new migration comes after all others"


def test_replicas_of_the_version_before_work_with_a_migrated_database(tmp_path: Path) -> None:
    """They know no new columns, so what was there before stays as it is: a migration adds tables."""
    migrations = database.known_migrations()
    start = next(number for number, name in enumerate(migrations) if name.startswith(LAST_THAT_CHANGED_TABLES))
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False), database.session():
        runner = Runner(db.obj, str(_MIGRATIONS))
        runner.up(migrations[start])
        schema = set(_schema()[0])
        for name in migrations[start + 1 :]:
            runner.up(name)
            later = set(_schema()[0])
            assert schema <= later, f"{name} changes what was there"
            schema = later


def test_a_sighting_can_be_recorded_of_a_vm_from_before_there_were_any(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0003_setting_scopes")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0004_vm_sighting" in database.migrate()
        with database.session():
            VmSighting.create(vm="v", host="h")
            assert [row.vm.name for row in VmSighting.select()] == ["web"]
            Host.delete().where(Host.id == "h").execute()
            assert VmSighting.select().count() == 0


def test_imports_under_way_keep_their_source_and_files_when_others_need_none(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0008_affinity_hosts")
            for statement in _OLD_IMPORT:
                db.execute_sql(statement)
        assert "0009_file_imports" in database.migrate()
        with database.session():
            [kept] = VmImport.select()
            assert (kept.id, kept.source_id, kept.pool_id, kept.claimed_bytes) == ("i", "s", "p", 5)
            assert [file.name for file in ImportFile.select()] == ["disk.vmdk"]
            VmImport.create(source=None, source_ref="web.ovf", vm_id="w", pool="p", host_id="h", claimed_bytes=1)
            VmImport.delete().execute()
            assert ImportFile.select().count() == 0


def test_interfaces_from_before_networks_get_one_for_each_bridge_of_a_zone(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0009_file_imports")
            for statement in (*_OLD_VM, *_OLD_NICS):
                db.execute_sql(statement)
        assert "0010_networks" in database.migrate()
        with database.session():
            networks = {network.name: network for network in Network.select()}
            assert {name: (row.zone_id, row.bridge) for name, row in networks.items()} == {
                "br1": ("z", "br1"),
                "br0-zone": ("z", "br0"),
                "br0-far": ("y", "br0"),
            }
            # Guests from then may rely on sending what they like; only the accounts that were there may use it.
            assert not any(network.spoof_filter or network.all_accounts for network in networks.values())
            assert {row.network.name: row.account_id for row in NetworkAccount.select()} == dict.fromkeys(networks, "a")
            found = {(nic.mac, nic.network.name, nic.position, nic.model) for nic in Nic.select()}
            assert found == {
                ("52:54:00:00:00:01", "br0-zone", 0, "virtio"),
                ("52:54:00:00:00:02", "br1", 1, "e1000"),
                ("52:54:00:00:00:03", "br0-far", 0, "virtio"),
            }
            [kept] = NicAddressing.select()
            assert (kept.nic.mac, kept.addresses) == ("52:54:00:00:00:01", '["192.0.2.7/24"]')


def test_imports_under_way_are_cold(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0008_affinity_hosts")
            for statement in _OLD_IMPORT:
                db.execute_sql(statement)
            Runner(db.obj, str(_MIGRATIONS)).up("0010_networks")
        assert "0011_warm_imports" in database.migrate()
        with database.session():
            assert (VmImport.select().count(), WarmImport.select().count()) == (1, 0)
            WarmImport.create(vm_import="i")
            VmImport.delete().execute()
            assert WarmImport.select().count() == 0


def test_vms_and_hosts_get_high_availability(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0011_warm_imports")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0012_ha" in database.migrate()
        with database.session():
            VmPriority.create(vm="v", priority=Priority.HIGH)
            VmRestart.create(vm="v", lost_host_id="h", priority=Priority.HIGH)
            HostFence.create(host="h", operation_id="x")
            assert [row.vm.name for row in VmRestart.select()] == ["web"]
            Host.delete().where(Host.id == "h").execute()
            Vm.delete().where(Vm.id == "v").execute()
            assert [model.select().count() for model in (VmPriority, VmRestart, HostFence)] == [0, 0, 0]


def test_tokens_from_before_hosts_could_be_named_name_none(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0012_ha")
            db.execute_sql(
                "INSERT INTO join_token (id, create_time, digest, cluster_id, host_id, expire_time) "
                "VALUES ('t', '2026-01-01 00:00:00', 'd', 'c', '', '2026-01-01 01:00:00')"
            )
        assert "0013_pinned_tokens" in database.migrate()
        with database.session():
            [kept] = JoinToken.select()
            assert (kept.digest, kept.cluster_id, kept.host_name, kept.address) == ("d", "c", "", "")
            assert (kept.expire_time, kept.use_time) == (datetime.datetime(2026, 1, 1, 1), None)


def test_import_sources_may_be_kvm_hosts(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0019_maximum_sizes")
            for statement in (*_OLD_VM, *_OLD_IMPORT):
                db.execute_sql(statement)
        assert "0020_kvm_imports" in database.migrate()
        with database.session():
            KvmSource.create(source="s", known_hosts="old1 ssh-ed25519 AAAA")
            ImportDiskPassphrase.create(vm_import="i", disk_key=1, passphrase="k")
            assert [row.source.name for row in KvmSource.select()] == ["vc1"]
            VmImport.delete().where(VmImport.id == "i").execute()
            ImportSource.delete().where(ImportSource.id == "s").execute()
            assert [model.select().count() for model in (KvmSource, ImportDiskPassphrase)] == [0, 0]


def test_kvm_hosts_may_be_reached_through_tls(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0020_kvm_imports")
            for statement in (*_OLD_VM, *_OLD_IMPORT):
                db.execute_sql(statement)
        assert "0021_kvm_tls" in database.migrate()
        with database.session():
            KvmTlsSource.create(source="s", client_certificate="-----BEGIN CERTIFICATE-----")
            assert [row.source.name for row in KvmTlsSource.select()] == ["vc1"]
            VmImport.delete().where(VmImport.id == "i").execute()
            ImportSource.delete().where(ImportSource.id == "s").execute()
            assert KvmTlsSource.select().count() == 0


def test_vms_have_backups(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0020_kvm_imports")
            for statement in (*_OLD_VM, *_OLD_IMPORT):
                db.execute_sql(statement)
        assert "0024_backups" in database.migrate()
        with database.session():
            pool = Pool.create(name="store", type="nfs", scope="zone", scope_id="z")
            BackupStore.create(pool=pool)
            backup = Backup.create(name="b", account="a", vm_id="v", vm_name="web", pool=pool, definition="{}")
            BackupDisk.create(
                backup=backup, slot=0, volume_id="d", volume_name="web-root", pool=pool, passphrase="k", size_bytes=1,
                volume_pool_id="p", volume_format="qcow2", provisioning="thin",
            )  # fmt: skip
            assert [(row.name, row.backup.state) for row in BackupDisk.select()] == [("b:0", "creating")]
            Backup.delete().execute()
            Pool.delete().where(Pool.id == pool.id).execute()
            assert [model.select().count() for model in (BackupDisk, BackupStore)] == [0, 0]


def test_import_plans_are_kept_with_their_vms(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0013_pinned_tokens")
        assert "0014_import_plans" in database.migrate()
        with database.session():
            limits = {"max_vms": 4, "max_per_esxi_host": 2, "max_per_vcenter": 8, "max_per_conversion_host": 2}
            plan = ImportPlan.create(name="w", source_id="s", source_name="vc1", user="ada", document="", **limits)
            ImportPlanVm.create(plan=plan, position=0, source_vm="web", spec="{}")
            assert [row.state for row in ImportPlan.select()] == ["ready"]
            assert [row.state for row in ImportPlanVm.select()] == ["waiting"]
            ImportPlan.delete().execute()
            assert ImportPlanVm.select().count() == 0


def test_templates_and_offerings_get_details_for_drivers(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0014_import_plans")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0015_driver_details" in database.migrate()
        with database.session():
            OfferingDetail.create(service_offering="o", key="kernel", value="/k")
            assert [row.service_offering.name for row in OfferingDetail.select()] == ["small"]
            Vm.delete().where(Vm.id == "v").execute()
            ServiceOffering.delete().where(ServiceOffering.id == "o").execute()
            assert OfferingDetail.select().count() == 0


def test_vms_get_labels_and_descriptions(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0015_driver_details")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0016_labels" in database.migrate()
        with database.session():
            VmLabel.create(object="v", key="env", value="prod")
            VmDescription.create(vm="v", text="shop")
            assert [row.object.name for row in VmLabel.select()] == ["web"]
            Vm.delete().where(Vm.id == "v").execute()
            assert [model.select().count() for model in (VmLabel, VmDescription)] == [0, 0]


def test_drs_gets_conditions(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0016_labels")
            for statement in _OLD_VM[:2]:
                db.execute_sql(statement)
        assert "0017_drs_conditions" in database.migrate()
        with database.session():
            time = datetime.datetime(2026, 1, 1)
            DrsCondition.create(cluster="c", kind="unbalanced", start_time=time, seen_time=time)
            assert [row.cluster.name for row in DrsCondition.select()] == ["cluster"]
            Cluster.delete().where(Cluster.id == "c").execute()
            assert DrsCondition.select().count() == 0


def test_events_from_before_the_chain_are_linked_in_their_order(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0017_drs_conditions")
            for name, day in (("late", 2), ("early", 1)):
                db.execute_sql(
                    "INSERT INTO event (id, create_time, type, outcome, actor, resource_type, resource_id, "
                    "resource_name, account_id, message, operation_id) "
                    "VALUES (?, ?, 'vm.start', 'started', 'ada', 'vm', 'v', 'web', '', '', '')",
                    (name, f"2026-01-0{day} 00:00:00"),
                )
        assert "0018_event_chain" in database.migrate()
        with database.session():
            assert (verify.verify().checked_count, verify.verify().first_break) == (2, None)
            assert [row.id for row in Event.select().order_by(Event.sequence)] == ["early", "late"]


def test_vms_and_offerings_get_maximum_sizes(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0018_event_chain")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0019_maximum_sizes" in database.migrate()
        with database.session():
            OfferingMaximum.create(service_offering="o", cpus=4, memory_bytes=1 << 34)
            VmMaximum.create(vm="v", cpus=4, memory_bytes=1 << 34)
            assert [row.vm.name for row in VmMaximum.select()] == ["web"]
            Vm.delete().where(Vm.id == "v").execute()
            ServiceOffering.delete().where(ServiceOffering.id == "o").execute()
            assert [model.select().count() for model in (VmMaximum, OfferingMaximum)] == [0, 0]


def test_hosts_may_be_switched_off(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0018_event_chain")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0019_host_power" in database.migrate()
        with database.session():
            HostPower.create(host="h")
            assert [(row.host.name, row.state) for row in HostPower.select()] == [("h1", "switching_off")]
            Host.delete().where(Host.id == "h").execute()
            assert HostPower.select().count() == 0


def test_interfaces_get_links(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0020_kvm_imports")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0021_nic_links" in database.migrate()
        with database.session():
            network = Network.create(name="lan", zone="z", bridge="br0")
            nic = Nic.create(vm="v", position=0, mac="52:54:00:00:00:01", network=network)
            NicDown.create(nic=nic)
            assert [row.nic.mac for row in NicDown.select()] == ["52:54:00:00:00:01"]
            Vm.delete().where(Vm.id == "v").execute()
            assert NicDown.select().count() == 0


def test_snapshots_get_what_they_are_as_good_as(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0024_backups")
            pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
            account = Account.create(name="a")
            old = Snapshot.create(name="old", account=account, volume_id="v", pool=pool, size_bytes=1)
        assert "0025_snapshot_consistency" in database.migrate()
        with database.session():
            SnapshotConsistency.create(snapshot=old, consistency="crash", reason="no guest agent is connected")
            assert [(row.snapshot.name, row.consistency) for row in SnapshotConsistency.select()] == [("old", "crash")]
            Snapshot.delete().execute()
            assert SnapshotConsistency.select().count() == 0


def test_backups_get_what_they_are_as_good_as(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0025_snapshot_consistency")
            pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
            account = Account.create(name="a")
            old = Backup.create(name="old", account=account, vm_id="v", vm_name="web", pool=pool, definition="{}")
        assert "0026_backup_consistency" in database.migrate()
        with database.session():
            BackupConsistency.create(backup=old, consistency="application")
            assert [(row.backup.name, row.reason) for row in BackupConsistency.select()] == [("old", "")]
            Backup.delete().execute()
            assert BackupConsistency.select().count() == 0


def test_vms_get_iso_images(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0024_backups")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0027_isos" in database.migrate()
        with database.session():
            VmIso.create(vm="v", iso=Iso.create(name="rescue", file_size_bytes=2048, sha256="0" * 64), drive=0)
            assert [(row.vm.id, row.iso.name, row.boot_first) for row in VmIso.select()] == [("v", "rescue", False)]
            Vm.delete().where(Vm.id == "v").execute()
            assert (VmIso.select().count(), Iso.select().count()) == (0, 1)


def test_vms_keep_machine_types(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0027_isos")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0028_machine_types" in database.migrate()
        with database.session():
            VmMachine.create(vm="v", machine="pc-q35-7.2")
            assert [(row.vm.id, row.machine) for row in VmMachine.select()] == [("v", "pc-q35-7.2")]
            Vm.delete().where(Vm.id == "v").execute()
            assert VmMachine.select().count() == 0


def test_vms_keep_the_cpu_that_they_started_with(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0033_held_indexes")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0034_cpus" in database.migrate()
        with database.session():
            VmCpu.create(vm="v", digests="a b")
            assert [(row.vm.id, row.digests) for row in VmCpu.select()] == [("v", "a b")]
            assert HostCpu.select().count() == 0
            Vm.delete().where(Vm.id == "v").execute()
            assert VmCpu.select().count() == 0


def test_vms_get_schedules_of_backups(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0028_machine_types")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
            old = Backup.create(name="old", account="a", vm_id="v", vm_name="web", pool=pool, definition="{}")
        assert "0029_backup_schedules" in database.migrate()
        with database.session():
            schedule = BackupSchedule.create(vm="v", interval="daily", keep_daily=7, next_time=now())
            ScheduledBackup.create(backup=old, schedule=schedule)
            assert [(row.backup.name, row.schedule.vm.name) for row in ScheduledBackup.select()] == [("old", "web")]
            Vm.delete().where(Vm.id == "v").execute()
            assert [model.select().count() for model in (BackupSchedule, ScheduledBackup, Backup)] == [0, 0, 1]


def test_vms_get_snapshots(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0029_backup_schedules")
            pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
            account = Account.create(name="a")
            old = Snapshot.create(name="old", account=account, volume_id="d", pool=pool, size_bytes=1)
        assert "0030_vm_snapshots" in database.migrate()
        with database.session():
            whole = VmSnapshot.create(name="w", account=account, vm_id="v", vm_name="web")
            VmSnapshotDisk.create(vm_snapshot=whole, snapshot=old, slot=0, volume_id="d", volume_name="web-root")
            assert [(row.vm_snapshot.name, row.snapshot_id) for row in VmSnapshotDisk.select()] == [("w", old.id)]
            Snapshot.delete().execute()
            assert [row.snapshot_id for row in VmSnapshotDisk.select()] == [None]
            VmSnapshot.delete().execute()
            assert VmSnapshotDisk.select().count() == 0


def test_vms_get_schedules_of_snapshots(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0030_vm_snapshots")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            old = VmSnapshot.create(name="old", account="a", vm_id="v", vm_name="web")
        assert "0030_vm_snapshots_schedules" in database.migrate()
        with database.session():
            schedule = VmSnapshotSchedule.create(vm="v", interval="daily", keep=7, next_time=now())
            ScheduledVmSnapshot.create(vm_snapshot=old, schedule=schedule)
            rows = ScheduledVmSnapshot.select()
            assert [(row.vm_snapshot.name, row.schedule.vm.name) for row in rows] == [("old", "web")]
            Vm.delete().where(Vm.id == "v").execute()
            counts = [model.select().count() for model in (VmSnapshotSchedule, ScheduledVmSnapshot, VmSnapshot)]
            assert counts == [0, 0, 1]


def test_an_operation_finds_what_it_holds_by_indexes(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0030_vm_snapshots")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            db.execute_sql("UPDATE vm SET operation_id = 'o' WHERE id = 'v'")
        assert "0033_held_indexes" in database.migrate()
        with database.session():
            for model in HELD:
                if model is not Kek:  # there are a few
                    query, _ = model.update(operation_id="").where(model.operation_id == "o").sql()
                    plan = db.execute_sql(f"EXPLAIN QUERY PLAN {query}", ("", "o")).fetchall()
                    assert "USING INDEX" in plan[0][3], f"{model.__name__}: {plan[0][3]}"
            assert Vm.get_by_id("v").operation_id == "o"
            release("o")
            assert Vm.get_by_id("v").operation_id == ""


def test_hosts_get_guardians(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0030_vm_snapshots_schedules")
            for statement in _OLD_VM[:3]:
                db.execute_sql(statement)
        assert "0032_host_guard" in database.migrate()
        with database.session():
            HostGuard.create(host="h")
            assert [(row.host.name, row.state, row.term) for row in HostGuard.select()] == [("h1", "off", "")]
            db.execute_sql("DELETE FROM host")
            assert HostGuard.select().count() == 0


def test_disks_of_backups_get_what_they_build_on(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0030_vm_snapshots")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            kek = Kek.create(name="k", current=True)
            pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
            old = Backup.create(name="old", account="a", vm_id="v", vm_name="web", pool=pool, definition="{}")
            first, second = (
                BackupDisk.create(
                    backup=old, slot=slot, volume_id="d", volume_name="d", pool=pool, size_bytes=1, volume_pool_id="p",
                    volume_format="qcow2", provisioning="thin",
                    passphrase=Passphrase.create(kek=kek, sealed=b"", bound_id=f"{slot}"),
                )
                for slot in range(2)
            )  # fmt: skip
        assert "0034_backup_increments" in database.migrate()
        with database.session():
            BackupIncrement.create(disk=second, parent=first)
            with pytest.raises(peewee.IntegrityError):
                BackupDisk.delete().where(BackupDisk.id == first.id).execute()
            BackupDisk.delete().where(BackupDisk.id == second.id).execute()
            assert BackupIncrement.select().count() == 0


def test_vm_snapshots_get_labels(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0030_vm_snapshots_schedules")
            old = VmSnapshot.create(name="old", account=Account.create(name="a"), vm_id="v", vm_name="web")
        assert "0030_vm_snapshots_with_labels" in database.migrate()
        with database.session():
            VmSnapshotLabel.create(object=old, key="keep", value="yes")
            assert [(row.object.name, row.key) for row in VmSnapshotLabel.select()] == [("old", "keep")]
            VmSnapshot.delete().execute()
            assert VmSnapshotLabel.select().count() == 0


def test_vm_snapshots_get_memory(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0035_backup_boots")
            old = VmSnapshot.create(name="old", account=Account.create(name="a"), vm_id="v", vm_name="web")
            pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
            Kek.create(id="k", name="k", current=True)
            key = Passphrase.create(kek="k", sealed=b"x", bound_id="m")
        assert "0037_vm_snapshot_memory" in database.migrate()
        with database.session():
            VmSnapshotMemory.create(vm_snapshot=old, pool=pool, passphrase=key, size_bytes=1, definition="{}")
            [row] = VmSnapshotMemory.select()
            assert (row.vm_snapshot.name, row.format, row.used_bytes, row.cpus) == ("old", "qcow2", 0, "")
            with pytest.raises(peewee.IntegrityError):
                Passphrase.delete().execute()
            VmSnapshot.delete().execute()
            assert VmSnapshotMemory.select().count() == 0


def test_operations_get_steps(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0037_vm_snapshot_memory")
            old = Operation.create(verb="vm.start", resource_type="vm", resource_id="v", user="alice", attempt=1)
        assert "0038_operation_steps" in database.migrate()
        with database.session():
            OperationStep.insert(operation=old, number=0, name="one", outcome="{}").execute()
            with pytest.raises(peewee.IntegrityError):
                OperationStep.insert(operation=old, number=0, name="other", outcome="{}").execute()
            Operation.delete().execute()
            assert OperationStep.select().count() == 0


def test_zones_isos_and_backups_get_labels(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0039_backup_firmware_states")
            zone = Zone.create(name="z")
            iso = Iso.create(name="tools", file_size_bytes=1, sha256="0" * 64)
            store = Pool.create(name="p", type="nfs", path="/p", scope="zone", scope_id=zone.id)
            owner = Account.create(name="a")
            backup = Backup.create(name="b", account=owner, vm_id="v", vm_name="web", pool=store, definition="{}")
        assert "0041_labels_of_zones_isos_backups" in database.migrate()
        with database.session():
            for table, row in ((ZoneLabel, zone), (IsoLabel, iso), (BackupLabel, backup)):
                table.create(object=row, key="keep", value="yes")
                row.delete_instance()
                assert table.select().count() == 0


def test_templates_say_whether_their_vms_get_a_tpm(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0041_labels_of_zones_isos_backups")
            old = Template.create(name="old", format="raw", virtual_size_bytes=1, file_size_bytes=1)
        assert "0043_template_tpms" in database.migrate()
        with database.session():
            assert not tpms.of_templates([old.id])
            tpms.add(old)
            assert tpms.of_templates([Template.get().id])
            with pytest.raises(peewee.IntegrityError):
                tpms.add(old)
            old.delete_instance()
            assert TemplateTpm.select().count() == 0


def test_more_kinds_get_labels(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0043_template_tpms")
            account = Account.create(name="a")
            offering = ServiceOffering.create(name="small", cpus=1, memory_bytes=1)
            kek = Kek.create(id="k", name="k")
        assert "0044_more_kinds_with_labels" in database.migrate()
        with database.session():
            for table, row in ((AccountLabel, account), (ServiceOfferingLabel, offering), (KekLabel, kek)):
                table.create(object=row, key="keep", value="yes")
                with pytest.raises(peewee.IntegrityError):
                    table.create(object=row, key="keep", value="no")
                row.delete_instance()
                assert table.select().count() == 0


def test_the_silence_of_fenced_hosts_can_be_recorded_of_hosts_from_before(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0003_setting_scopes")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            Runner(db.obj, str(_MIGRATIONS)).up("0045_vm_absences")
        assert "0046_host_silence" in database.migrate()
        with database.session():
            HostSilence.create(host="h")
            with pytest.raises(peewee.IntegrityError):
                HostSilence.create(host="h")
            Host.delete().where(Host.id == "h").execute()
            assert HostSilence.select().count() == 0


def test_late_starts_can_be_recorded_of_vms_from_before(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0003_setting_scopes")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            Runner(db.obj, str(_MIGRATIONS)).up("0046_host_silence")
        assert "0047_late_start" in database.migrate()
        with database.session():
            for job_id in ("a.start", "b.start"):
                LateStart.create(vm="v", host="h", job_id=job_id)
            with pytest.raises(peewee.IntegrityError):
                LateStart.create(vm="v", host="h", job_id="a.start")
            Host.delete().where(Host.id == "h").execute()
            assert LateStart.select().count() == 0


def test_what_hosts_answered_of_vms_can_be_recorded_of_vms_from_before(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0003_setting_scopes")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            Runner(db.obj, str(_MIGRATIONS)).up("0044_more_kinds_with_labels")
        assert "0045_vm_absences" in database.migrate()
        with database.session():
            for number in (1 << 61, 7):  # the later answer replaces the one before
                absences.record_look("v", "h", Look(1 << 61, number))
            assert absences.of(["v"]) == {("v", "h"): Look(1 << 61, 7)}
            Host.delete().where(Host.id == "h").execute()
            assert absences.of(["v"]) == {}


def test_backups_get_boots(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0034_backup_increments")
            pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
            account = Account.create(name="a")
            old = Backup.create(name="old", account=account, vm_id="v", vm_name="web", pool=pool, definition="{}")
        assert "0035_backup_boots" in database.migrate()
        with database.session():
            BackupBoot.create(backup=old, sign="console")
            assert [(row.backup.name, row.sign, row.error) for row in BackupBoot.select()] == [("old", "console", "")]
            Backup.delete().execute()
            assert BackupBoot.select().count() == 0


def test_stores_get_buckets(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0037_vm_snapshot_memory")
            pool = Pool.create(name="p", type="nfs", scope="zone", scope_id="z")
            account = Account.create(name="a")
            old = Backup.create(name="old", account=account, vm_id="v", vm_name="web", pool=pool, definition="{}")
        assert "0040_s3_stores" in database.migrate()
        with database.session():
            kek = Kek.create(id="k", name="k", current=True)
            key = Passphrase.create(kek=kek, sealed=b"s", bound_id="b")
            StoreBucket.create(pool=pool, endpoint="https://s", bucket="b", region="r", access_key="a", passphrase=key)
            BackupSpool.create(backup=old, host_id="h")
            assert [(row.name, row.prefix, row.ca_pem) for row in StoreBucket.select()] == [("p", "", "")]
            with pytest.raises(peewee.IntegrityError):
                Passphrase.delete().execute()
            Backup.delete().execute()
            Pool.delete().execute()
            assert (BackupSpool.select().count(), StoreBucket.select().count()) == (0, 0)


def test_vms_get_tpms(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0035_backup_boots")
            for statement in _OLD_VM:
                db.execute_sql(statement)
        assert "0036_vm_tpms" in database.migrate()
        with database.session():
            kek = Kek.create(id="k", name="k", current=True)
            VmTpm.create(vm="v", passphrase=Passphrase.create(kek=kek, sealed=b"s", bound_id="t"))
            assert [(row.name, bytes(row.passphrase.sealed)) for row in VmTpm.select()] == [("web", b"s")]
            with pytest.raises(peewee.IntegrityError):
                Passphrase.delete().execute()
            Vm.delete().where(Vm.id == "v").execute()
            assert VmTpm.select().count() == 0


def test_vms_and_their_snapshots_get_firmware_states(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0036_vm_tpms")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            old = VmSnapshot.create(name="old", account="a", vm_id="v", vm_name="web")
        assert "0036_vm_tpms_firmware_states" in database.migrate()
        with database.session():
            kek = Kek.create(id="k", name="k", current=True)
            first, second = (Passphrase.create(kek=kek, sealed=b"s", bound_id=name) for name in ("f", "s"))
            VmFirmwareState.create(vm="v", passphrase=first, state_id="i", sealed=b"c", sha256="0")
            VmSnapshotFirmwareState.create(vm_snapshot=old, passphrase=second, sealed=b"c")
            assert [(row.name, bytes(row.sealed), row.overwrite) for row in VmFirmwareState.select()] == [
                ("web", b"c", False)
            ]
            assert [row.name for row in VmSnapshotFirmwareState.select()] == ["old"]
            Vm.delete().where(Vm.id == "v").execute()
            VmSnapshot.delete().execute()
            assert [model.select().count() for model in (VmFirmwareState, VmSnapshotFirmwareState)] == [0, 0]


def test_backups_get_firmware_states_and_tpms(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0037_vm_snapshot_memory")
            for statement in _OLD_VM:
                db.execute_sql(statement)
            pool = Pool.create(name="store", type="nfs", scope="zone", scope_id="z", shared=True)
            old = Backup.create(name="old", account="a", vm_id="v", vm_name="web", pool=pool, definition="{}")
        assert "0039_backup_firmware_states" in database.migrate()
        with database.session():
            kek = Kek.create(id="k", name="k", current=True)
            first, second = (Passphrase.create(kek=kek, sealed=b"s", bound_id=name) for name in ("f", "s"))
            BackupFirmwareState.create(backup=old, passphrase=first, sealed=b"c", copy_time=now())
            BackupTpm.create(backup=old, passphrase=second)
            assert [(row.name, bytes(row.sealed), row.problem) for row in BackupFirmwareState.select()] == [
                ("old", b"c", "")
            ]
            with pytest.raises(peewee.IntegrityError):
                Passphrase.delete().execute()
            Backup.delete().execute()
            assert [model.select().count() for model in (BackupFirmwareState, BackupTpm)] == [0, 0]


def test_offerings_and_volumes_get_io_limits(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0021_nic_links")
            db.execute_sql(
                "INSERT INTO disk_offering (id, create_time, name, size_bytes, encrypt, provisioning, format) "
                "VALUES ('d', '2026-01-01', 'old', 0, 0, 'thin', 'raw')"
            )
        assert "0022_io_limits" in database.migrate()
        with database.session():
            assert disk_io.of_offerings(["d"]) == {}
            DiskOfferingIo.create(disk_offering="d", iops=500)
            assert disk_io.of_offerings(["d"]) == {"d": disk_io.DiskIo(IoLimits(iops=500))}
            db.execute_sql("DELETE FROM disk_offering")
            assert [model.select().count() for model in (DiskOfferingIo, VolumeLimits)] == [0, 0]


def test_clusters_networks_pools_and_snapshots_get_labels(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0022_io_limits")
            for statement in _OLD_VM[:2]:
                db.execute_sql(statement)
        assert "0023_more_labels" in database.migrate()
        with database.session():
            ClusterLabel.create(object="c", key="site", value="berlin")
            assert [row.object.name for row in ClusterLabel.select()] == ["cluster"]
            Cluster.delete().where(Cluster.id == "c").execute()
            assert ClusterLabel.select().count() == 0
            assert [model.select().count() for model in (NetworkLabel, PoolLabel, SnapshotLabel)] == [0, 0, 0]


def test_migrating_again_does_nothing(fresh_database: str) -> None:
    assert database.migrate() == []


def test_two_processes_may_migrate_at_once(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        applied: list[list[str]] = []
        threads = [threading.Thread(target=lambda: applied.append(database.migrate())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(names) for names in sorted(applied, key=len)] == [0, 0, 0, len(list(_MIGRATIONS.glob("0*.py")))]


def test_fat_provisioning_becomes_thick(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0001_first")
            for name, provisioning in (("old", "fat"), ("other", "sparse")):
                db.execute_sql(
                    "INSERT INTO disk_offering (id, create_time, name, size_bytes, encrypt, provisioning, format) "
                    "VALUES (?, '2026-01-01', ?, 0, 0, ?, 'raw')",
                    (name, name, provisioning),
                )
        database.migrate()
        with database.session():
            rows = db.execute_sql("SELECT name, provisioning FROM disk_offering ORDER BY name").fetchall()
        assert rows == [("old", "thick"), ("other", "sparse")]


def test_settings_keep_their_values_when_they_get_scopes(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0001_first")
            for row_id, cluster_id, value in (("a", "", "30"), ("b", "c1", "5")):
                db.execute_sql(
                    "INSERT INTO setting_value (id, create_time, name, cluster_id, value) "
                    "VALUES (?, '2026-01-01', 'vm.stop.timeout', ?, ?)",
                    (row_id, cluster_id, value),
                )
        database.migrate()
        with database.session():
            rows = db.execute_sql("SELECT id, name, scope, scope_id, value FROM setting_value ORDER BY id").fetchall()
        assert rows == [
            ("a", "vm.stop.timeout", "global", "", "30"),
            ("b", "vm.stop.timeout", "cluster", "c1", "5"),
        ]


def test_a_database_of_a_newer_version_is_refused(own_database: str) -> None:
    mark = "?" if database.is_sqlite() else "%s"
    db.execute_sql(
        f"INSERT INTO schema_migration (name, applied) VALUES ({mark}, {mark})", ("9999_future", "2030-01-01")
    )
    with pytest.raises(FailedPreconditionError, match="9999_future") as caught:
        database.migrate()
    assert caught.value.reason == "DATABASE_TOO_NEW"


def test_a_query_outside_a_session_fails_rather_than_leak_a_connection(fresh_database: str) -> None:
    errors: list[Exception] = []

    def query() -> None:
        try:
            Zone.select().count()
        except Exception as error:
            errors.append(error)
        with database.session(), database.session():
            assert Zone.select().count() == 0
        assert db.is_closed()

    thread = threading.Thread(target=query)
    thread.start()
    thread.join()
    assert [type(error) for error in errors] == [peewee.InterfaceError]


def test_what_joins_a_transaction_ends_with_it(fresh_database: str) -> None:
    def fail_after(name: str) -> None:
        with database.transaction():
            with database.joined():
                Zone.create(name=name)
            raise ZeroDivisionError

    def fail_within(name: str) -> None:
        with database.joined():
            Zone.create(name=name)
            raise ZeroDivisionError

    with database.joined():
        Zone.create(name="alone")
    for fail in (fail_after, fail_within):
        with pytest.raises(ZeroDivisionError):
            fail("failed")
    assert [zone.name for zone in Zone.select()] == ["alone"]


def test_a_transaction_is_undone_as_a_whole(fresh_database: str) -> None:
    def fail() -> None:
        with database.transaction():
            Zone.create(name="a")
            with database.transaction():
                Zone.create(name="b")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Zone.select().count() == 0


def test_threads_that_read_and_then_write_lose_no_update(fresh_database: str) -> None:
    zone = Zone.create(name="0")

    def add() -> None:
        for _ in range(10):
            with database.transaction():
                query = Zone.select().where(Zone.id == zone.id)
                found = (query if database.is_sqlite() else query.for_update()).get()
                Zone.update(name=str(int(found.name) + 1)).where(Zone.id == zone.id).execute()

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Zone.get().name == "80"


def test_foreign_keys_hold_and_sqlite_is_durable(fresh_database: str) -> None:
    if database.is_sqlite():
        pragmas = {name: db.pragma(name) for name in ("foreign_keys", "synchronous", "journal_mode")}
        assert pragmas == {"foreign_keys": 1, "synchronous": 1, "journal_mode": "wal"}
    with pytest.raises(peewee.IntegrityError):
        db.execute_sql(
            "INSERT INTO pool_host (id, create_time, pool_id, host_id, reachable, reason) "
            "VALUES ('x', '2030-01-01', 'no', 'no', false, '')"
        )


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="sqlite:///"):
        database.connect("mysql://x")
