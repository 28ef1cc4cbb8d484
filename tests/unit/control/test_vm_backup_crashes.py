"""The control plane is killed between any two lines that matter of backups and restores, which are then resumed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from ostler.types.v1.vm_pb2 import FirmwareState
from ostler_common.errors import FailedPreconditionError
from ostler_control import vm_backups
from ostler_control.models import Backup, BackupBoot, BackupDisk, Operation, Vm, Volume
from ostler_control.vms import firmware_states, tpm
from ostler_control.volumes.increments import parent_of

from tests.fakes.working_agent import Fault
from tests.sites import Site
from tests.unit.control.crashes import Aftermath, aftermath_of, names, record, run_without_crash, states

pytestmark = pytest.mark.slow

# Three points for each step, undo steps included, one at the end, and one more that is never reached.
POINTS = {"create": 20, "create.doomed": 17, "again": 20, "boot": 17, "delete": 11, "restore": 14, "over": 17}


def back_up(site: Site, name: str) -> Operation:
    vm = Vm.get(Vm.name == name)
    name = f"{name}-kept" if not Backup.select().where(Backup.name == f"{name}-kept").exists() else f"{name}-more"
    return record(partial(vm_backups.create, vm_backups.NewBackup(vm, name), "alice", site.keys))


def start(site: Site, kind: str, name: str) -> Operation:
    if kind.startswith("create") or kind == "again":
        return back_up(site, name)
    backup = Backup.get(Backup.name == f"{name}-kept")
    if kind == "delete":
        return record(partial(vm_backups.delete, backup, "alice"))
    if kind == "boot":
        return record(partial(vm_backups.boot, backup, "alice", 60, "last 200"))
    if kind == "over":
        return record(partial(vm_backups.restore_over, backup, "alice", site.keys))
    wanted = vm_backups.NewVmRestore(backup, f"{name}-again")
    return record(partial(vm_backups.restore_vm, wanted, "alice", site.keys))


def state_of(vm: Vm, site: Site) -> bytes:
    """What the firmware of a VM would keep if it had run."""
    key = tpm.passphrase_of(vm.id, site.keys)
    assert key is not None
    return FirmwareState(tpm=key.reveal() + b"|" + vm.name.encode()).SerializeToString()


def prepare(site: Site) -> None:
    """A stopped VM for each operation, backed up where it needs that; the doomed fail with their files there."""
    site.add_backup_store()
    every = [name for kind, points in POINTS.items() for name in names(kind, points)]
    run_without_crash(site, [record(partial(site.new_vm, name, stopped=True, tpm=True)) for name in every])
    for vm in Vm.select():
        firmware_states.set_next(vm.id, state_of(vm, site), site.keys)
    run_without_crash(site, [back_up(site, name) for name in every if not name.startswith("create")])
    doomed = {row.id for row in Vm.select().where(Vm.name.startswith("create.doomed"))}
    no = FailedPreconditionError("no", "NO_WAY")
    for fake in site.hosts.values():
        fake.fail("CopyDisks", Fault(no, before=False, times=1000, only=lambda request: request.vm_id in doomed))


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with aftermath_of(tmp_path_factory.mktemp("crashes"), POINTS, prepare, start) as found:
        yield found


def kept(kind: str) -> list[Backup]:
    return list(Backup.select().where(Backup.name.startswith(f"{kind}-")))


def test_nothing_has_leaked(aftermath: Aftermath) -> None:
    """Claims, keys, files, locks."""
    aftermath[0].check_whole()


@pytest.mark.parametrize("kind", ["create", "restore", "over"])
def test_a_backup_is_whole(aftermath: Aftermath, kind: str) -> None:
    assert states(aftermath[1][kind]) == {"succeeded"}
    assert [backup.state for backup in kept(kind)] == ["ready"] * POINTS[kind]


def test_an_increment_is_one_or_says_why_not(aftermath: Aftermath) -> None:
    """An attempt that nobody remembers may have made the copy: what its file lacks must be known all the same."""
    site = aftermath[0]
    assert states(aftermath[1]["again"]) == {"succeeded"}
    made = list(Backup.select().where(Backup.name.endswith("-more")))
    assert len(made) == POINTS["again"]
    for backup in made:
        [disk] = BackupDisk.select().where(BackupDisk.backup == backup)
        since = site.fleet.pools[disk.pool_id][disk.id].since
        parent = parent_of(disk)
        assert since == (parent.backup_id if parent else "")
        assert since, "the last backup is there, and recorded"


def test_nothing_is_left_of_a_vm_that_tested_a_backup(aftermath: Aftermath) -> None:
    assert states(aftermath[1]["boot"]) == {"succeeded"}
    assert [row.sign for row in BackupBoot.select()] == ["console"] * POINTS["boot"]
    assert not Vm.select().where(Vm.name.startswith("boot-test")).exists()
    assert not Volume.select().where(Volume.name.startswith("boot-test")).exists()


def test_a_backup_that_failed_or_was_deleted_is_gone(aftermath: Aftermath) -> None:
    assert states(aftermath[1]["create.doomed"]) == {"failed"}
    assert states(aftermath[1]["delete"]) == {"succeeded"}
    assert (kept("create.doomed"), kept("delete")) == ([], [])


def test_a_restored_vm_is_whole(aftermath: Aftermath) -> None:
    site = aftermath[0]
    restored = list(Vm.select().where(Vm.name.endswith("-again")))
    assert [vm.state for vm in restored] == ["stopped"] * POINTS["restore"]
    for vm in (*restored, *Vm.select().where(Vm.name.startswith("over-"))):
        [volume] = Volume.select().where(Volume.vm_id == vm.id)
        backup = Backup.get(Backup.name == f"{vm.name.removesuffix('-again')}-kept")
        [disk] = BackupDisk.select().where(BackupDisk.backup == backup)
        files = site.fleet.pools
        assert files[volume.pool_id][volume.file_id].content == files[disk.pool_id][disk.id].content
        assert volume.encrypt_format == "luks"
        state, key = firmware_states.to_wire(vm, site.host("h1").id, site.keys), tpm.passphrase_of(vm.id, site.keys)
        assert state is not None
        assert key is not None
        source = Vm.get(Vm.name == vm.name.removesuffix("-again"))
        assert FirmwareState(tpm=state.tpm).SerializeToString() == state_of(source, site)
        assert key.reveal() == state.tpm.partition(b"|")[0], "it opens"
