"""A fencing and a return are killed in every step: no VM is freed without proof or runs twice, and no firmware's state
is lost."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
from ostler.agent.v1 import host_pb2 as agent_pb
from ostler_common.secret import Secret
from ostler_control import vms
from ostler_control.database import transaction
from ostler_control.ha import devices
from ostler_control.ha.fence import fence
from ostler_control.ha.fence_agents import Device, Power
from ostler_control.ha.free import free_vms
from ostler_control.ha.give_back import give_back
from ostler_control.ha.lease_watch import MARGIN_S
from ostler_control.ha.priorities import set_offering
from ostler_control.models import (
    Event,
    FenceState,
    Host,
    HostFence,
    HostGuard,
    HostState,
    Operation,
    Priority,
    Vm,
    VmRestart,
    VmState,
    new_id,
)

from tests import databases
from tests.fakes.fence import PASSWORD, FakeDevice
from tests.fakes.working_agent import wait_until
from tests.sites import Site, new_site
from tests.unit.control.crashes import are_over, control, reached, record, run_without_crash
from tests.unit.control.ha.place import vm

pytestmark = pytest.mark.slow

# The point of each try at which it is killed: in the steps power-off, verify-off, record-off, free and power-on, with
# their effects there and not yet in the journal. A step that the journal knows has one point, another one three.
IN_STEPS = (2, 5, 6, 7, 8)


def prepare(directory: Path, url: str) -> tuple[Site, FakeDevice]:
    """A protected VM runs on h1, which has a fence device; then h1 dies."""
    site = new_site(url, directory)
    set_offering(site.encrypted, Priority.HIGH, "root")
    run_without_crash(site, [record(lambda: site.new_vm("web", host=site.host("h1"), pool=site.pools["shared"]))])
    bmc = FakeDevice(directory / "fence")
    new = devices.NewDevice(new_id(), Device("redfish", "bmc", "u", {"plug": "1"}), Secret(PASSWORD), power_on=True)
    devices.create(site.host("h1"), new, Power.ON, "root", site.keys)
    site.silence("h1")
    return site, bmc


def test_killed_anywhere_in_a_fencing(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        site, bmc = prepare(tmp_path, url)
        operation = record(lambda: fence(site.host("h1"), "system", device=True, automatic=True))
        for number in IN_STEPS:
            with control(site, {operation.id: number}):
                wait_until(lambda: reached(site, operation), 60)
            (tmp_path / "control" / "reached" / operation.id).unlink()
            proved = HostFence.get().state is FenceState.OFF
            assert proved or Vm.get().state is VmState.RUNNING, "freed without proof"
            assert "off" in bmc.calls()
            assert Vm.get().state is VmState.RUNNING or VmRestart.select().count() == 1
            assert site.host("h1").state is HostState.FENCED
        with control(site, {}):
            wait_until(lambda: are_over([operation]), 60)
        assert Operation.get_by_id(operation.id).state == "succeeded"
        assert (Vm.get().state, Vm.get().host) == (VmState.STOPPED, None)
        assert [row.vm.name for row in VmRestart.select()] == ["web"]
        assert bmc.calls() == ["off", "off", "status", "status", "on", "on"]
        site.fleet.stop()


def test_killed_anywhere_in_a_fencing_by_lease(tmp_path: Path) -> None:
    """In the steps watch-lease, record-off and free. The watch begins anew each time, and takes its time."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        site = new_site(url, tmp_path)
        set_offering(site.encrypted, Priority.HIGH, "root")
        run_without_crash(site, [record(lambda: site.new_vm("web", host=site.host("h1"), pool=site.pools["shared"]))])
        pool_id, guard = site.pools["shared"].id, site.hosts["h1"].guard
        HostGuard.create(host=site.host("h1"), state="guarding", term="term", pool_id=pool_id, ends_within_s=0.1)
        site.fleet.leases[pool_id, guard.host_id] = agent_pb.Lease(term="term", number=7)
        site.silence("h1")
        operation = record(lambda: fence(site.host("h1"), "system", device=False, automatic=True, lease=True))
        begun = time.monotonic()
        for number in (2, 5, 6):
            with control(site, {operation.id: number}):
                wait_until(lambda: reached(site, operation), 90)
            (tmp_path / "control" / "reached" / operation.id).unlink()
            assert time.monotonic() - begun > MARGIN_S
            proved = HostFence.get().state is FenceState.OFF
            assert proved or Vm.get().state is VmState.RUNNING, "freed without proof"
            assert site.host("h1").state is HostState.FENCED
        with control(site, {}):
            wait_until(lambda: are_over([operation]), 60)
        assert Operation.get_by_id(operation.id).state == "succeeded"
        assert (HostFence.get().proof, Vm.get().state, Vm.get().host) == ("lease", VmState.STOPPED, None)
        assert [row.vm.name for row in VmRestart.select()] == ["web"]
        site.fleet.stop()


def test_a_host_that_is_back_when_the_control_plane_is_back_is_not_switched_off_again(tmp_path: Path) -> None:
    """Killed after switching off; before it comes back somebody has switched the host on."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        site, bmc = prepare(tmp_path, url)
        operation = record(lambda: fence(site.host("h1"), "system", device=True, automatic=True))
        with control(site, {operation.id: 2}):
            wait_until(lambda: reached(site, operation), 60)
        site.hosts["h1"].start()
        with control(site, {}):
            wait_until(lambda: are_over([operation]), 60)
        assert Operation.get_by_id(operation.id).state == "failed"
        assert bmc.calls() == ["off"]
        assert Vm.get().host == site.host("h1")
        assert Host.get(Host.name == "h1").state is HostState.DISCONNECTED, "the watcher says when it is up"
        site.fleet.stop()


def prepare_return(directory: Path, url: str) -> Site:
    """Two VMs with TPMs ran on h1 until it was proved off, and run on h2; h1 is heard again with their definitions.
    The guest of `changed` sealed something after the last copy was taken, the one of `same` did not."""
    site = new_site(url, directory)
    wanted = {"offering": site.plain, "pool": site.pools["shared"], "tpm": True}
    made = [record(partial(site.new_vm, name, host=site.host("h1"), **wanted)) for name in ("changed", "same")]
    run_without_crash(site, made)
    h1 = site.hosts["h1"]
    h1.tpms[vm("changed").id].content = b"sealed keys"
    site.silence("h1")
    with transaction():
        Host.update(state=HostState.FENCED).where(Host.name == "h1").execute()
        HostFence.create(host=site.host("h1"), state=FenceState.OFF, operation_id="done", proof="admin")
    assert free_vms(h1.host_id) == 2
    starts = [record(partial(vms.start, vm(name), "root", site.host("h2"))) for name in ("changed", "same")]
    run_without_crash(site, starts)
    for machine in h1.vms.values():
        machine.running = False
    h1.start()
    with transaction():
        HostFence.update(heard=True).execute()
    return site


def test_killed_anywhere_in_a_return(tmp_path: Path) -> None:
    """In the steps list, look and tell or undefine for each VM, release-guard and take-back."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        site = prepare_return(tmp_path, url)
        h1 = site.hosts["h1"]
        give_back(h1.host_id)
        operation = Operation.get(Operation.verb == "host.return")
        for number in (2, 5, 6, 7, 8, 9, 10):
            with control(site, {operation.id: number}):
                wait_until(lambda: reached(site, operation), 60)
            (tmp_path / "control" / "reached" / operation.id).unlink()
            assert h1.tpms[vm("changed").id].content == b"sealed keys"
        with control(site, {}):
            wait_until(lambda: are_over([operation]), 60)
        assert Operation.get_by_id(operation.id).state == "succeeded"
        assert site.host("h1").state is HostState.UP
        assert list(h1.vms) == list(h1.tpms) == [vm("changed").id]
        assert h1.tpms[vm("changed").id].content == b"sealed keys"
        told = {row.message for row in Event.select().where(Event.type == "host.vm.definition-kept")}
        assert [text.partition(": ")[0] for text in told] == [
            "host h1 still had the definition of VM changed, which is on host h2"
        ]
        assert {name: site.fleet.running_on(vm(name).id) for name in ("changed", "same")} == {
            "changed": ["h2"],
            "same": ["h2"],
        }
        site.fleet.stop()
