"""The control plane is killed between any two lines that matter of snapshots of VMs, which are then resumed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import vm_snapshots, volumes
from ostler_control.models import Operation, Snapshot, Vm, VmSnapshot, VmSnapshotDisk, Volume

from tests.fakes.working_agent import Fault
from tests.sites import MIB, Site
from tests.unit.control.crashes import Aftermath, aftermath_of, names, record, run_without_crash, states

pytestmark = pytest.mark.slow

# Three points for each step, undo steps included, one at the end, and one more that is never reached.
POINTS = {"create": 8, "create.doomed": 17, "delete": 17, "revert": 23, "revert.doomed": 20}
SINCE = "written since"


def take(site: Site, name: str) -> Operation:
    vm = Vm.get(Vm.name == name)
    return record(partial(vm_snapshots.create, vm_snapshots.NewVmSnapshot(vm, f"{name}-kept"), "alice", site.keys))


def start(site: Site, kind: str, name: str) -> Operation:
    if kind.startswith("create"):
        return take(site, name)
    row = VmSnapshot.get(VmSnapshot.name == f"{name}-kept")
    if kind == "delete":
        return record(partial(vm_snapshots.delete, row, "alice"))
    return record(partial(vm_snapshots.revert, row, "alice", site.keys))


def prepare(site: Site) -> None:
    """A stopped VM with two disks for each operation; those that are reverted have written since their snapshot."""
    every = [name for kind, points in POINTS.items() for name in names(kind, points)]
    run_without_crash(site, [record(partial(site.new_vm, name, stopped=True)) for name in every])
    new = [volumes.NewVolume(f"{name}-data", site.account, site.disks["encrypted"], 4 * MIB) for name in every]
    run_without_crash(site, [record(partial(volumes.create, one, "alice", site.keys)) for one in new])
    run_without_crash(
        site,
        [
            record(partial(volumes.attach, Volume.get(Volume.name == f"{name}-data"), Vm.get(Vm.name == name), "alice"))
            for name in every
        ],
    )
    run_without_crash(site, [take(site, name) for name in every if not name.startswith("create")])
    for volume in Volume.select().where(Volume.name.startswith("revert")):
        site.fleet.pools[volume.pool_id][volume.file_id].content = SINCE
    doomed = {row.id for row in Volume.select().where(Volume.name.startswith("create.doomed"))}
    lost = {
        disk.snapshot_id
        for disk in VmSnapshotDisk.select().where(
            VmSnapshotDisk.volume_name.startswith("revert.doomed"), ~VmSnapshotDisk.root
        )
    }
    no = FailedPreconditionError("no", "NO_WAY")
    for fake in site.hosts.values():
        fake.fail(
            "CopyDisks",
            Fault(no, before=False, times=1000, only=lambda request: request.disks[0].source.volume_id in doomed),
        )
        fake.fail(
            "CopyVolume", Fault(no, before=False, times=1000, only=lambda request: request.source.volume_id in lost)
        )


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with aftermath_of(tmp_path_factory.mktemp("crashes"), POINTS, prepare, start) as found:
        yield found


def kept(kind: str) -> list[VmSnapshot]:
    return list(VmSnapshot.select().where(VmSnapshot.name.startswith(f"{kind}-")))


def contents(site: Site, kind: str) -> dict[str, list[str]]:
    """Of each VM's disks, by name."""
    vms = {vm.id: vm.name for vm in Vm.select().where(Vm.name.startswith(f"{kind}-"))}
    found: dict[str, list[str]] = {}
    for volume in Volume.select().where(Volume.vm_id.in_(list(vms))).order_by(Volume.slot):
        file = site.fleet.pools[volume.pool_id][volume.file_id]
        found.setdefault(vms[volume.vm_id], []).append(file.content)
    return found


def test_nothing_has_leaked(aftermath: Aftermath) -> None:
    """Claims, keys, files, locks."""
    aftermath[0].check_whole()


def test_a_snapshot_has_all_disks(aftermath: Aftermath) -> None:
    assert states(aftermath[1]["create"]) == {"succeeded"}
    assert [row.state for row in kept("create")] == ["ready"] * POINTS["create"]
    disks = Snapshot.select().join(VmSnapshotDisk).where(VmSnapshotDisk.vm_snapshot.in_(kept("create")))
    assert [disk.state for disk in disks] == ["ready"] * POINTS["create"] * 2


def test_a_snapshot_that_failed_or_was_deleted_leaves_no_disk(aftermath: Aftermath) -> None:
    assert states(aftermath[1]["create.doomed"]) == {"failed"}
    assert states(aftermath[1]["delete"]) == {"succeeded"}
    assert (kept("create.doomed"), kept("delete")) == ([], [])
    assert not Snapshot.select().where(Snapshot.name.startswith("create.doomed-")).exists()
    assert not Snapshot.select().where(Snapshot.name.startswith("delete-")).exists()


def test_a_vm_is_reverted_as_a_whole_or_not_at_all(aftermath: Aftermath) -> None:
    site, operations = aftermath
    assert states(operations["revert"]) == {"succeeded"}
    assert states(operations["revert.doomed"]) == {"failed"}
    back = contents(site, "revert")
    assert (len(back), {len(disks) for disks in back.values()}) == (POINTS["revert"], {2})
    assert SINCE not in {content for disks in back.values() for content in disks}
    unchanged = contents(site, "revert.doomed")
    assert list(unchanged.values()) == [[SINCE, SINCE]] * POINTS["revert.doomed"]
