"""The control plane is killed at every point of every change of a volume's file or key, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import vms, volumes
from ostler_control.models import Event, Operation, Vm, Volume, VolumeFile

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import MIB, Site, new_site
from tests.unit.control.crashes import (
    are_over,
    control,
    kill_at_every_point,
    names,
    record,
    run_without_crash,
)

pytestmark = pytest.mark.slow

# How many points each change has at which it can be killed, and one more, so that one operation is never killed.
POINTS = {"shallow": 14, "stopped": 14, "running": 14, "reinstall": 14, "doomed": 14}
# Those that are done to the root disk of a running VM.
_RUNNING = ("running", "doomed")


def prepare(site: Site) -> None:
    """The VMs and volumes that are changed."""
    made = []
    for kind in POINTS:
        for name in names(kind, POINTS[kind]):
            if kind in _RUNNING:
                made.append(record(partial(site.new_vm, name, host=site.host("h1"))))
            elif kind == "reinstall":
                made.append(record(partial(site.new_vm, name, stopped=True)))
            else:
                new = volumes.NewVolume(name, site.account, site.disks["encrypted"], 4 * MIB, pool=site.pools["shared"])
                made.append(record(partial(volumes.create, new, "alice", site.keys)))
    run_without_crash(site, made)
    doomed = {vm.id for vm in Vm.select() if vm.name.startswith("doomed")}
    no = FailedPreconditionError("no", "NO_WAY")
    site.hosts["h1"].fail("PivotVolume", Fault(no, times=1000, only=lambda request: request.vm_id in doomed))


def disk(name: str) -> Any:
    vm = Vm.get_or_none(Vm.name == name)
    return Volume.get(Volume.name == name) if vm is None else Volume.get((Volume.vm_id == vm.id) & Volume.root)


def start(site: Site, kind: str, name: str) -> Any:
    if kind == "reinstall":
        return record(partial(vms.reinstall, Vm.get(Vm.name == name), "alice", site.keys))
    return record(partial(volumes.rekey, disk(name), "alice", site.keys, deep=kind != "shallow"))


@dataclass(frozen=True)
class Aftermath:
    """What there was and is: the disks of each kind before and after, the n-th change killed at its n-th point."""

    site: Site
    operations: dict[str, list[Any]]
    before: dict[str, list[Any]]
    contents: dict[str, str]

    def check(self, kind: str, state: str, *, new_file: bool, new_key: bool, same_content: bool = True) -> None:
        after = [disk(name) for name in names(kind, POINTS[kind])]
        assert [Operation.get_by_id(operation.id).state for operation in self.operations[kind]] == [state] * len(after)
        destroyed = [event.message for event in Event.select().where(Event.type == "volume.key.destroy")]
        for old, new in zip(self.before[kind], after, strict=True):
            assert (new.file_id != old.file_id, new.passphrase_id != old.passphrase_id) == (new_file, new_key)
            content = self.site.fleet.pools[new.pool_id][new.file_id].content
            assert (content == self.contents[old.id]) == same_content
            told = [message for message in destroyed if str(old.passphrase_id) in message]
            assert len(told) == int(new_key)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def aftermath(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgresql: str
) -> Iterator[Aftermath]:
    """Everything at once is killed everywhere, and another process carries it out."""
    state_dir: Path = tmp_path_factory.mktemp("crashes")
    if request.param == "sqlite":
        where = f"sqlite:///{state_dir}/ostler.sqlite"
    else:
        where = databases.new_database(postgresql, "volume_crashes")
    with databases.bound(where) as url:
        site = new_site(url, state_dir)
        prepare(site)
        before = {kind: [disk(name) for name in names(kind, POINTS[kind])] for kind in POINTS}
        rows = [row for group in before.values() for row in group]
        contents = {row.id: site.fleet.pools[row.pool_id][row.file_id].content for row in rows}
        operations = {kind: [start(site, kind, name) for name in names(kind, POINTS[kind])] for kind in POINTS}
        every = kill_at_every_point(site, operations)
        with control(site, {}):
            wait_until(lambda: are_over(every) and not VolumeFile.select().exists(), 120)
            wait_until(lambda: are_over(list(Operation.select())), 60)
        yield Aftermath(site, operations, before, contents)
        site.fleet.stop()


def test_nothing_is_left_and_every_key_opens(aftermath: Aftermath) -> None:
    aftermath.site.check_whole()


def test_a_shallow_rekey(aftermath: Aftermath) -> None:
    aftermath.check("shallow", "succeeded", new_file=False, new_key=True)


@pytest.mark.parametrize("kind", ["stopped", "running"])
def test_a_new_file(aftermath: Aftermath, kind: str) -> None:
    aftermath.check(kind, "succeeded", new_file=True, new_key=True)


def test_a_reinstall(aftermath: Aftermath) -> None:
    aftermath.check("reinstall", "succeeded", new_file=True, new_key=True, same_content=False)


def test_a_pivot_that_fails(aftermath: Aftermath) -> None:
    aftermath.check("doomed", "failed", new_file=False, new_key=False)
