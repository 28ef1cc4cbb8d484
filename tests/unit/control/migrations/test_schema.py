"""Migrations: what they make together, and that a released one never changes."""

from __future__ import annotations

import hashlib
import threading

from ostler_control import database
from ostler_control.models import ALL, db
from playhouse.migrations import Runner

from tests.unit.control.migrations.old_rows import MIGRATIONS

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
    digests = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in MIGRATIONS.glob("0*.py")}
    assert {name: digests.get(name) for name in FROZEN} == FROZEN
    newer = sorted(set(digests) - set(FROZEN))
    assert all(name > max(FROZEN) for name in newer), "a new migration comes after all others"


def test_replicas_of_the_version_before_work_with_a_migrated_database(unmigrated_database: None) -> None:
    """They know no new columns, so what was there before stays as it is: a migration adds tables."""
    migrations = database.known_migrations()
    start = next(number for number, name in enumerate(migrations) if name.startswith(LAST_THAT_CHANGED_TABLES))
    runner = Runner(db.obj, str(MIGRATIONS))
    runner.up(migrations[start])
    schema = set(_schema()[0])
    for name in migrations[start + 1 :]:
        runner.up(name)
        later = set(_schema()[0])
        assert schema <= later, f"{name} changes what was there"
        schema = later


def test_migrating_again_does_nothing(fresh_database: str) -> None:
    assert database.migrate() == []


def test_two_processes_may_migrate_at_once(unmigrated_database: None) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(database.migrate())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(names) for names in sorted(applied, key=len)] == [0, 0, 0, len(list(MIGRATIONS.glob("0*.py")))]
