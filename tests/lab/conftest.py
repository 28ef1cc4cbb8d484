"""One fleet for all end-to-end tests: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1 import backup_pb2

from tests.lab.fleet import CLUSTER, Fleet, fresh
from tests.lab.host import SHARED
from tests.lab.lab import Lab


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    with Lab.start(hosts=3) as lab:
        fleet = Fleet.make(lab)
        yield fleet
        # When all tests have had their chance to spill one.
        fleet.watch.remember()
        fleet.watch.stop()
        assert not fleet.watch.found()


@pytest.fixture
def guest(fleet: Fleet) -> str:
    """Name of a VM that runs a real guest from an encrypted root disk in the shared pool; shared by the tests."""
    name = "guest"
    if name not in [vm.name for vm in fleet.vms()]:
        fleet.create_vm(name)
        with fleet.console(name) as console:
            console.wait("tick 1", 90)
    elif not fleet.hosts_running(fleet.vm(name).id):
        fleet.do(fleet.start(name))
        with fleet.console(name) as console:
            console.wait("tick", 90)
    return name


@pytest.fixture(autouse=True)
def no_vm_runs_twice(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test, whatever was done to the fleet: no VM has two processes, and none executes on two hosts."""
    yield
    if "fleet" in request.fixturenames:
        fleet: Fleet = request.getfixturevalue("fleet")
        fleet.assert_no_vm_runs_twice()


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Path]:
    """The directory of a store on the shared file system."""
    inside = f"{SHARED}/backups"
    outside = fleet.lab.hosts[0].outside(inside)
    outside.mkdir()
    request = backup_pb2.CreateBackupStoreRequest(request_id=fresh(), name="vault", path=inside, cluster=CLUSTER)
    fleet.api.backups.CreateBackupStore(request)
    yield outside
    fleet.api.backups.DeleteBackupStore(backup_pb2.DeleteBackupStoreRequest(store="vault"))
    (outside / ".ostler-pool").unlink()
    outside.rmdir()  # nothing else is left
