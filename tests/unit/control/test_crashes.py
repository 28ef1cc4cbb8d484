"""The control plane is killed between any two lines that matter, and its operations are resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import snapshots, vms, volumes
from ostler_control.models import Operation, Snapshot, Vm, Volume

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import MIB, Site, new_site
from tests.unit.control.crashes import (
    are_over,
    control,
    kill_at_every_point,
    names,
    reached,
    record,
    run_without_crash,
)

pytestmark = pytest.mark.slow

# How many points each verb has at which it can be killed, and one more, so that one operation is never killed.
POINTS = {
    "volume.create": 8,
    "vm.create": 8,
    "doomed": 20,
    "vm.migrate": 17,
    "stayer": 17,
    "vm.delete": 20,
    "cancelled": 6,
    "volume.copy": 8,
    "snapshot.create": 8,
    "snapshot.doomed": 14,
    "snapshot.delete": 11,
    "volume.revert": 14,
    "lost.revert": 11,
}

# The verbs that begin with a snapshot.
SNAPSHOTS = ("snapshot.delete", "volume.revert", "lost.revert")


def new_volume(site: Site, name: str) -> Operation:
    wanted = volumes.NewVolume(name, site.account, site.disks["encrypted"], 4 * MIB)
    return volumes.create(wanted, "alice", site.keys)


def new_snapshot(name: str) -> Operation:
    return snapshots.create(snapshots.NewSnapshot(Volume.get(Volume.name == name), name), "alice")


def start(site: Site, verb: str, name: str) -> Any:
    """Records the operation; what it needs was created by `prepare`."""
    match verb:
        case "volume.create":
            return record(partial(new_volume, site, name))
        case "vm.migrate" | "stayer":
            vm = Vm.get(Vm.name == name)
            return record(partial(vms.migrate, vm, "alice", with_storage=True, pool=site.pools["local2"]))
        case "vm.delete":
            return record(partial(vms.delete, Vm.get(Vm.name == name), "alice", force=True))
        case "volume.copy":
            wanted = volumes.NewCopy(f"{name}-copy", site.account, Volume.get(Volume.name == name))
            return record(lambda: volumes.copy(wanted, "alice", site.keys))
        case "snapshot.create" | "snapshot.doomed":
            return record(partial(new_snapshot, name))
        case "volume.revert" | "lost.revert":
            return record(partial(snapshots.revert, Snapshot.get(Snapshot.name == name), "alice", site.keys))
        case "snapshot.delete":
            return record(partial(snapshots.delete, Snapshot.get(Snapshot.name == name), "alice"))
    return record(partial(site.new_vm, name))


def prepare(site: Site) -> None:
    """VMs for the verbs that want some, and what goes wrong with some of them."""
    local = {"pool": site.pools["local1"], "host": site.host("h1")}
    made = [
        record(partial(site.new_vm, f"{verb}-{number}", **({} if verb == "vm.delete" else local)))
        for verb in ("vm.migrate", "stayer", "vm.delete")
        for number in range(1, POINTS[verb] + 1)
    ]
    sources = [
        f"{verb}-{number}"
        for verb in ("volume.copy", *SNAPSHOTS, "snapshot.create", "snapshot.doomed")
        for number in range(1, POINTS[verb] + 1)
    ]
    made += [record(partial(new_volume, site, name)) for name in sources]
    run_without_crash(site, made)
    run_without_crash(site, [record(partial(new_snapshot, name)) for name in sources if name.startswith(SNAPSHOTS)])
    no = FailedPreconditionError("no", "NO_WAY")
    doomed = Fault(no, before=False, times=1000, only=lambda request: request.spec.name.startswith("doomed"))
    for fake in site.hosts.values():
        fake.fail("StartVm", doomed)
    unlucky = {row.file_id for row in Volume.select().where(Volume.name.startswith("snapshot.doomed"))}
    unlucky |= {row.file_id for row in Snapshot.select().where(Snapshot.name.startswith("lost.revert"))}
    full = Fault(no, before=False, times=1000, only=lambda request: request.source.volume_id in unlucky)
    for fake in site.hosts.values():
        fake.fail("CopyVolume", full)
    stays = Fault(no, times=1000, only=lambda request: request.destination_spec.name.startswith("stayer"))
    site.hosts["h1"].fail("MigrateVm", stays)


@dataclass(frozen=True)
class Aftermath:
    """What there was and is: the operations of each verb, the n-th killed at its n-th point."""

    site: Site
    operations: dict[str, list[Any]]

    def states(self, verb: str) -> list[str]:
        return [Operation.get_by_id(operation.id).state for operation in self.operations[verb]]

    def vms(self, verb: str) -> list[Any]:
        return list(Vm.select().where(Vm.name.startswith(f"{verb}-")))

    def snapshots(self, verb: str) -> list[Any]:
        return list(Snapshot.select().where(Snapshot.name.startswith(f"{verb}-")))

    def disks(self, verb: str) -> list[Any]:
        return list(Volume.select().where(Volume.name.startswith(f"{verb}-")))


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """Everything at once is killed everywhere, and another process carries it out."""
    state_dir = tmp_path_factory.mktemp("crashes")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url:
        site = new_site(url, state_dir)
        prepare(site)
        operations = {
            verb: [start(site, verb, name) for name in names(verb, points)] for verb, points in POINTS.items()
        }
        every = kill_at_every_point(site, operations, never_over=["cancelled"])
        cancelled = [operation.id for operation in operations["cancelled"]]
        Operation.update(cancel_requested=True).where(Operation.id.in_(cancelled)).execute()
        with control(site, {}):
            wait_until(lambda: are_over(every), 120)
        yield Aftermath(site, operations)
        site.fleet.stop()


def test_nothing_has_leaked(aftermath: Aftermath) -> None:
    aftermath.site.check_whole()


def test_volume_create(aftermath: Aftermath) -> None:
    assert set(aftermath.states("volume.create")) == {"succeeded"}
    assert {row.state for row in aftermath.disks("volume.create")} == {"ready"}


def test_vm_create(aftermath: Aftermath) -> None:
    assert set(aftermath.states("vm.create")) == {"succeeded"}
    assert {row.state for row in aftermath.vms("vm.create")} == {"running"}
    assert {row.state for row in aftermath.disks("vm.create")} == {"ready"}


def test_vm_create_that_fails(aftermath: Aftermath) -> None:
    assert set(aftermath.states("doomed")) == {"failed"}
    assert {(row.state, row.host_id) for row in aftermath.vms("doomed")} == {("failed", None)}
    assert aftermath.disks("doomed") == []


def test_vm_migrate(aftermath: Aftermath) -> None:
    assert set(aftermath.states("vm.migrate")) == {"succeeded"}
    where = {(row.state, row.host.name, row.destination_id) for row in aftermath.vms("vm.migrate")}
    assert where == {("running", "h2", None)}
    assert {row.pool.name for row in aftermath.disks("vm.migrate")} == {"local2"}


def test_vm_migrate_that_fails(aftermath: Aftermath) -> None:
    assert set(aftermath.states("stayer")) == {"failed"}
    where = {(row.state, row.host.name, row.destination_id) for row in aftermath.vms("stayer")}
    assert where == {("running", "h1", None)}
    assert {row.pool.name for row in aftermath.disks("stayer")} == {"local1"}


def test_vm_delete(aftermath: Aftermath) -> None:
    assert set(aftermath.states("vm.delete")) == {"succeeded"}
    assert aftermath.vms("vm.delete") == []
    assert aftermath.disks("vm.delete") == []


def test_volume_copy(aftermath: Aftermath) -> None:
    assert set(aftermath.states("volume.copy")) == {"succeeded"}
    disks = aftermath.disks("volume.copy")
    assert (len(disks), {row.state for row in disks}) == (2 * POINTS["volume.copy"], {"ready"})


def test_snapshot_create(aftermath: Aftermath) -> None:
    assert set(aftermath.states("snapshot.create")) == {"succeeded"}
    taken = aftermath.snapshots("snapshot.create")
    assert (len(taken), {row.state for row in taken}) == (POINTS["snapshot.create"], {"ready"})


def test_snapshot_create_that_fails(aftermath: Aftermath) -> None:
    assert set(aftermath.states("snapshot.doomed")) == {"failed"}
    assert aftermath.snapshots("snapshot.doomed") == []
    assert {row.state for row in aftermath.disks("snapshot.doomed")} == {"ready"}


def test_snapshot_delete(aftermath: Aftermath) -> None:
    assert set(aftermath.states("snapshot.delete")) == {"succeeded"}
    assert aftermath.snapshots("snapshot.delete") == []


def test_volume_revert(aftermath: Aftermath) -> None:
    assert set(aftermath.states("volume.revert")) == {"succeeded"}
    assert all(row.file_id != row.id and row.state == "ready" for row in aftermath.disks("volume.revert"))


def test_volume_revert_that_fails(aftermath: Aftermath) -> None:
    assert set(aftermath.states("lost.revert")) == {"failed"}
    assert all(row.file_id == row.id and row.state == "ready" for row in aftermath.disks("lost.revert"))


def test_cancelled_while_nobody_was_there(aftermath: Aftermath) -> None:
    """The wish came after the kill: a VM whose start was over by then is there, the others are not."""
    assert aftermath.states("cancelled") == ["cancelled"] * 4 + ["succeeded"] * 2
    assert len(aftermath.vms("cancelled")) == len(aftermath.disks("cancelled")) == 2


def test_another_replica_goes_on(postgresql: str, tmp_path: Path) -> None:
    """On PostgreSQL a survivor takes over what a killed replica had under way."""
    with databases.bound(databases.new_database(postgresql, "replicas")) as url:
        site = new_site(url, tmp_path)
        operations = [record(partial(site.new_vm, f"vm{number}")) for number in range(6)]
        plan = {operation.id: number for number, operation in enumerate(operations, start=1)}
        with control(site, plan, "victim"):
            wait_until(lambda: all(reached(site, operation, "victim") for operation in operations), 60)
        with control(site, {}, "survivor"):
            wait_until(lambda: are_over(operations), 90)
        rows = list(Operation.select())
        assert {(row.state, row.attempt) for row in rows} == {("succeeded", 2)}
        assert {row.replica for row in rows} == {(tmp_path / "survivor" / "replica_id").read_text()}
        site.check_whole()
        site.fleet.stop()
