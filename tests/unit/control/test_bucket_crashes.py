"""The control plane is killed between any two lines that matter of backups in a bucket, which are then resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import vm_backups
from ostler_control.models import Backup, BackupDisk, BackupSpool, Operation, Vm, Volume

from tests import databases
from tests.fakes import s3
from tests.fakes.s3 import S3
from tests.fakes.working_agent import Fault, bytes_of, wait_until
from tests.sites import Site, new_site
from tests.unit.control.crashes import are_over, control, kill_at_every_point, names, record, run_without_crash

pytestmark = pytest.mark.slow

# As in `test_vm_backup_crashes`. The doomed fail when their files are sent.
POINTS = {"create": 41, "create.doomed": 35, "delete": 11, "restore": 11}


@dataclass
class Aftermath:
    site: Site
    served: S3
    operations: dict[str, list[Operation]]

    def states(self, kind: str) -> set[str]:
        return {Operation.get_by_id(operation.id).state for operation in self.operations[kind]}


def back_up(site: Site, name: str) -> Operation:
    wanted = vm_backups.NewBackup(Vm.get(Vm.name == name), f"{name}-kept")
    return record(partial(vm_backups.create, wanted, "alice", site.keys))


def start(site: Site, kind: str, name: str) -> Operation:
    if kind.startswith("create"):
        return back_up(site, name)
    backup = Backup.get(Backup.name == f"{name}-kept")
    if kind == "delete":
        return record(partial(vm_backups.delete, backup, "alice"))
    return record(partial(vm_backups.restore_vm, vm_backups.NewVmRestore(backup, f"{name}-again"), "alice", site.keys))


def doom(site: Site) -> None:
    backups = Backup.select(Backup.id).where(Backup.name.startswith("create.doomed"))
    doomed = {disk.id for disk in BackupDisk.select().where(BackupDisk.backup.in_(backups))}
    no = FailedPreconditionError("no", "NO_WAY")
    for fake in site.hosts.values():
        only = lambda request: request.volume.volume_id in doomed  # noqa: E731
        fake.fail("UploadVolume", Fault(no, before=False, times=1000, only=only))


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    state_dir = tmp_path_factory.mktemp("crashes")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, s3.serving(state_dir) as served:
        site = new_site(url, state_dir)
        site.add_bucket_store(served.bucket())
        every = [name for kind, points in POINTS.items() for name in names(kind, points)]
        run_without_crash(site, [record(partial(site.new_vm, name, stopped=True)) for name in every])
        run_without_crash(site, [back_up(site, name) for name in every if not name.startswith("create")])
        operations = {
            kind: [start(site, kind, name) for name in names(kind, points)] for kind, points in POINTS.items()
        }
        doom(site)
        killed = kill_at_every_point(site, operations)
        with control(site, {}):
            wait_until(lambda: are_over(killed), 120)
        yield Aftermath(site, served, operations)
        site.fleet.stop()


def test_nothing_has_leaked(aftermath: Aftermath) -> None:
    """Keys, locks, files of spools, objects, uploads."""
    aftermath.site.check_whole()
    kept = {f"fleet/one/{disk.id}.qcow2" for disk in BackupDisk.select()}
    assert set(aftermath.served.objects) == kept
    assert aftermath.served.uploads == {}
    assert [name for name, files in aftermath.site.fleet.pools.items() if "@" in name and files] == []
    assert BackupSpool.select().count() == 0


def test_backups_are_whole(aftermath: Aftermath) -> None:
    assert aftermath.states("create") == {"succeeded"}
    backups = list(Backup.select().where(Backup.name.startswith("create-")))
    assert [backup.state for backup in backups] == ["ready"] * POINTS["create"]
    for disk in BackupDisk.select().where(BackupDisk.backup.in_(backups)):
        sent = aftermath.served.objects[f"fleet/one/{disk.id}.qcow2"]
        assert sent == bytes_of(aftermath.site.fleet.sent[disk.id])


def test_what_failed_or_was_deleted_is_gone(aftermath: Aftermath) -> None:
    assert aftermath.states("create.doomed") == {"failed"}
    assert aftermath.states("delete") == {"succeeded"}
    assert not Backup.select().where(Backup.name.startswith("create.doomed-")).exists()
    assert not Backup.select().where(Backup.name.startswith("delete-")).exists()


def test_what_was_restored_is_whole(aftermath: Aftermath) -> None:
    assert aftermath.states("restore") == {"succeeded"}
    restored = list(Vm.select().where(Vm.name.endswith("-again")))
    assert [vm.state for vm in restored] == ["stopped"] * POINTS["restore"]
    for vm in restored:
        [volume] = Volume.select().where(Volume.vm_id == vm.id)
        [disk] = BackupDisk.select().join(Backup).where(Backup.name == f"{vm.name.removesuffix('-again')}-kept")
        file = aftermath.site.fleet.pools[volume.pool_id][volume.file_id]
        assert file.content == aftermath.site.fleet.sent[disk.id].content
