"""A PowerFlex pool end to end: the stand-in's loop devices are mapped to the lab's hosts, each an SDC of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1 import pool_pb2

from tests.fakes.powerflex import FakeGateway, Sdc, gateway
from tests.lab.fleet import CLUSTER, Fleet, fresh
from tests.lab.host import wait_for

pytestmark = pytest.mark.lab


@pytest.fixture
def array(fleet: Fleet, tmp_path: Path) -> Iterator[FakeGateway]:
    """An array with a pool "flex" that all hosts reach."""
    sdcs = [Sdc(host.outside("/dev/disk/by-id"), host.address, str(uuid.uuid4())) for host in fleet.lab.hosts]
    with gateway(tmp_path, sdcs, listen=fleet.lab.network.gateway) as running:
        fleet.api.pools.CreatePool(
            pool_pb2.CreatePoolRequest(
                request_id=fresh(),
                name="flex",
                type="powerflex",
                cluster=CLUSTER,
                options=running.options(),
                password=running.password.encode(),
            )
        )
        yield running
        fleet.api.pools.DeletePool(pool_pb2.DeletePoolRequest(pool="flex"))


def mapped_to(array: FakeGateway) -> set[str]:
    """Addresses of the hosts that see a volume."""
    ids = {sdc_id for volume in array.volumes.values() for sdc_id in volume.mapped}
    return {sdc.ip for sdc in array.sdcs if sdc.id in ids}


def test_an_encrypted_vm_on_an_array_moves_and_outlives_its_agent(fleet: Fleet, array: FakeGateway) -> None:
    vm = fleet.create_vm("arrayed", pool="flex")
    with fleet.console("arrayed") as console:
        console.wait("tick 1", 90)
    there = fleet.other_host("arrayed")
    fleet.do(fleet.migrate("arrayed", there.name))
    assert fleet.assert_runs_once("arrayed") == there.name
    wait_for(lambda: mapped_to(array) == {there.address}, "the host that it left to let go of the volume", 30)

    there.stop_agent("KILL")
    there.start_agent()
    fleet.wait_up(there)
    root = fleet.root_volume("arrayed")
    fleet.do(fleet.grow(root, 9 << 10))  # waits for the password
    with fleet.console("arrayed") as console:
        console.run("disks", f"DISK=vda BYTES={9 << 30}")

    fleet.do(fleet.stop("arrayed"))
    wait_for(lambda: not array.mapped(), "the stopped VM's volume to be unmapped", 30)
    assert not list(there.outside("/dev/ostler").glob("*/*"))
    assert fleet.processes(vm.id) == 0
    fleet.delete_vm("arrayed")
    assert not array.volumes
