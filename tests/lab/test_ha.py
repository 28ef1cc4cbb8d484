"""VMs of a host that is fenced start on other hosts: real Debian fence agent, real Redfish, real QEMUs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ostler.control.v1 import ha_pb2, host_pb2, vm_pb2
from ostler_agent.guardian.hold import END_S, ENDS_WITHIN_S, HOLD_S
from ostler_control.ha.lease_watch import MARGIN_S

from tests.lab.bmc import PASSWORD, USER, Bmc
from tests.lab.fleet import CLUSTER, SHARED_POOL, Fleet
from tests.lab.host import SHARED, wait_for

pytestmark = pytest.mark.lab
NAME = "protected"


@contextmanager
def counting(fleet: Fleet, vm_id: str) -> Iterator[list[int]]:
    """How many QEMU processes of the VM there were at once, at each look."""
    counts: list[int] = []
    stop = threading.Event()

    def count() -> None:
        while not stop.wait(0.02):
            counts.append(fleet.processes(vm_id))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def status_of(fleet: Fleet, host: str) -> ha_pb2.HaStatus.HostStatus:
    found = fleet.api.ha.GetHaStatus(ha_pb2.GetHaStatusRequest(cluster=CLUSTER))
    return next(row for row in found.hosts if row.host_name == host)


def test_a_host_whose_network_is_cut_is_fenced_and_its_running_vm_restarts_once(fleet: Fleet, tmp_path: Path) -> None:
    host = fleet.lab.host("h3")
    vm = fleet.create_vm(NAME, host="h3")
    with fleet.console(NAME) as console:
        console.wait("tick 1", 90)
    ostler = fleet.lab.control.ostler
    ostler("ha", "enable", NAME, "--priority", "high")
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    add = ["fence", "add", "h3", "--agent", "redfish", "--user", USER, "--password-file", str(password), "--power-on"]
    with (
        fleet.setting("ha.fence.delay", "10"),
        Bmc(host, tmp_path / "bmc") as bmc,
        counting(fleet, vm.id) as counts,
    ):
        ostler(*add, "--address", bmc.address, "--plug", host.host_uuid, "--insecure")
        assert "on" in ostler("fence", "test", "h3")
        host.cut()
        fleet.wait_state(host, host_pb2.Host.FENCED, 120)
        assert fleet.processes(vm.id) == 1, "it runs on unseen, until its host is switched off"
        wait_for(lambda: fleet.vm(NAME).host_name in ("h1", "h2"), "the restart", 90, 0.2)
        wait_for(lambda: fleet.vm(NAME).state == vm_pb2.Vm.RUNNING, "the VM running", 150, 0.2)
        assert bmc.cut_at, "the host was switched off"
        assert fleet.processes(vm.id) == 1
        with fleet.console(NAME) as console:
            console.wait("tick", 90)
        print(ostler("ha", "status"))
        wait_for(lambda: bmc.power() == "On", "the power on again", 60, 0.5)
    assert set(counts) == {0, 1}, "never two, and none between the two"
    ostler("fence", "remove", "h3", "--yes")
    host.boot()
    host.start_libvirt()
    host.start_agent()
    fleet.wait_state(host, host_pb2.Host.UP, 120)
    assert status_of(fleet, "h3").verdict == ""
    assert fleet.assert_runs_once(NAME) in ("h1", "h2")
    assert PASSWORD not in fleet.lab.control.log()
    fleet.delete_vm(NAME)


@contextmanager
def guarding(fleet: Fleet, fence_delay_s: int = 10) -> Iterator[None]:
    """The hosts guard themselves by leases in the shared pool, and are fenced when they are silent for this long."""
    with fleet.setting("ha.fence.delay", str(fence_delay_s)), fleet.setting("ha.lease.pool", SHARED_POOL):
        wait_for(lambda: status_of(fleet, "h3").self_fencing == "guarding", "h3 guarding itself", 60, 0.3)
        yield
    wait_for(lambda: status_of(fleet, "h3").self_fencing == "", "h3 not guarding itself", 60, 0.3)


def test_a_host_whose_agent_hangs_renews_its_lease_and_keeps_its_vm(fleet: Fleet) -> None:
    host = fleet.lab.host("h3")
    vm = fleet.create_vm(NAME, template="blank", host="h3")
    fleet.lab.control.ostler("ha", "enable", NAME)
    with guarding(fleet), counting(fleet, vm.id) as counts:
        host.freeze_daemon("agent")
        wait_for(lambda: "renews its lease" in fleet.host(host).state_reason, "the lease found renewed", 120, 0.3)
        assert fleet.vm(NAME).host_name == "h3"
        host.thaw_daemon("agent")
        fleet.wait_state(host, host_pb2.Host.UP, 120)
    assert set(counts) == {1}
    fleet.delete_vm(NAME)


@pytest.mark.timeout(600)
def test_a_host_whose_lease_hangs_keeps_its_vm_as_long_as_it_hears_the_control_plane(fleet: Fleet) -> None:
    """Then it ends the VM, is back before it is fenced, and its VM starts again."""
    host = fleet.lab.host("h3")
    vm = fleet.create_vm(NAME, template="blank", host="h3")
    fleet.lab.control.ostler("ha", "enable", NAME)
    lease = host.outside(f"{SHARED}/.ostler-lease.{fleet.host(host).id}")

    def guardian() -> dict[str, float | str]:
        found: dict[str, float | str] = json.loads(host.outside("/run/ostler/guardian/status.json").read_text())
        return found

    with guarding(fleet, fence_delay_s=300), counting(fleet, vm.id) as counts:
        pipe = lease.with_name("pipe")
        os.mkfifo(pipe)
        pipe.rename(lease)  # a write hangs, as on a server that is gone
        begun = float(guardian()["since"])
        wait_for(lambda: float(guardian()["since"]) > begun + 1.5 * HOLD_S, "grants for longer than a hold", 120, 0.3)
        assert guardian()["state"] == "guarding"
        assert fleet.processes(vm.id) == 1
        host.cut()
        wait_for(lambda: fleet.processes(vm.id) == 0, "the end of the VM", 90, 0.1)
        os.close(os.open(lease, os.O_RDONLY | os.O_NONBLOCK))  # the write goes on, and fails
        lease.unlink()
        host.mend()
        wait_for(lambda: fleet.vm(NAME).host_name not in ("", "h3") or fleet.processes(vm.id) == 1, "the restart", 120)
        fleet.wait_state(host, host_pb2.Host.UP, 120)
        wait_for(lambda: fleet.vm(NAME).state == vm_pb2.Vm.RUNNING, "the VM running", 120, 0.2)
        assert fleet.assert_runs_once(NAME)
    assert set(counts) == {0, 1}
    fleet.delete_vm(NAME)


@pytest.mark.timeout(600)
def test_a_host_that_lost_storage_and_network_ends_its_vm_before_it_starts_elsewhere(fleet: Fleet) -> None:
    host = fleet.lab.host("h3")
    vm = fleet.create_vm(NAME, host="h3")
    with fleet.console(NAME) as console:
        console.wait("tick 1", 90)
    ostler = fleet.lab.control.ostler
    ostler("ha", "enable", NAME)
    with guarding(fleet), counting(fleet, vm.id) as counts:
        assert "guarding" in ostler("host", "show", "h3")
        # Its QEMU has the disk open still, and nothing asks it to end but the guardian.
        host.cut()
        host.run("umount", "--lazy", SHARED)
        wait_for(lambda: fleet.processes(vm.id) == 0, "the end of the VM", 90, 0.1)
        assert fleet.vm(NAME).host_name == "h3", "nothing was proved by then"
        wait_for(lambda: fleet.vm(NAME).host_name in ("h1", "h2"), "the restart", 240, 0.3)
        wait_for(lambda: fleet.vm(NAME).state == vm_pb2.Vm.RUNNING, "the VM running", 150, 0.2)
        with fleet.console(NAME) as console:
            console.wait("tick", 90)
        print(ostler("ha", "status"))
        # The host comes back as it was: nothing was rebooted.
        host.run("mount", "--bind", str(host.shared), SHARED)
        host.mend()
        fleet.wait_state(host, host_pb2.Host.UP, 120)
        wait_for(lambda: status_of(fleet, "h3").self_fencing == "guarding", "h3 guarding itself again", 60, 0.3)
        assert fleet.assert_runs_once(NAME) in ("h1", "h2")
    assert set(counts) == {0, 1}, "never two, and none between the two"
    fleet.delete_vm(NAME)


@pytest.mark.timeout(600)
def test_a_host_that_freezes_as_a_whole_and_goes_on_ends_its_vm_before_it_starts_elsewhere(fleet: Fleet) -> None:
    """The host of a hung process group, or of a machine that was suspended: nobody renews the lease, nobody ends the
    VM, and its QEMU goes on. The lease proves the host off, and the image lock alone keeps a second copy away."""
    host = fleet.lab.host("h3")
    vm = fleet.create_vm(NAME, template="blank", host="h3")
    fleet.lab.control.ostler("ha", "enable", NAME)
    tried: list[str] = []

    def refused() -> bool:
        found = fleet.api.ha.GetHaStatus(ha_pb2.GetHaStatusRequest(cluster=CLUSTER))
        tried[:] = [row.reason for row in found.restarts if row.vm_name == NAME and row.attempts and row.reason]
        return bool(tried)

    with guarding(fleet):
        host.freeze_daemon("agent")
        host.freeze_daemon("guardian")
        frozen = time.monotonic()
        wait_for(lambda: refused() or fleet.vm(NAME).host_name != "h3", "the host proved off", 300, 0.1)
        assert time.monotonic() - frozen > ENDS_WITHIN_S + MARGIN_S, "the lease was watched for as long as it takes"
        wait_for(refused, "a start elsewhere that is refused", 120, 0.3)
        assert "lock" in tried[0]
        assert fleet.hosts_running(vm.id) == ["h3"], "the image lock kept the second copy away"
        host.thaw_daemon("guardian")
        wait_for(lambda: "h3" not in fleet.hosts_running(vm.id), "the end of the VM on h3", END_S, 0.1)
        wait_for(lambda: fleet.vm(NAME).state == vm_pb2.Vm.RUNNING, "the VM running elsewhere", 200, 0.3)
        host.thaw_daemon("agent")
        fleet.wait_state(host, host_pb2.Host.UP, 120)
        wait_for(lambda: status_of(fleet, "h3").self_fencing == "guarding", "h3 guarding itself again", 60, 0.3)
        assert fleet.assert_runs_once(NAME) in ("h1", "h2")
    fleet.delete_vm(NAME)


def test_a_host_without_a_fence_device_waits_for_an_admin(fleet: Fleet) -> None:
    host = fleet.lab.host("h3")
    vm = fleet.create_vm(NAME, template="blank", host="h3")
    ostler = fleet.lab.control.ostler
    ostler("ha", "enable", NAME)
    host.kill()
    try:
        with fleet.setting("ha.fence.delay", "10"):
            fleet.wait_state(host, host_pb2.Host.DISCONNECTED, 120)
            time.sleep(12)
            assert status_of(fleet, "h3").verdict == "no_device"
            assert fleet.vm(NAME).host_name == "h3"
            ostler("host", "declare-dead", "h3", "--confirm", "h3")
            wait_for(lambda: fleet.vm(NAME).host_name in ("h1", "h2"), "the restart", 60, 0.2)
            wait_for(lambda: fleet.vm(NAME).state == vm_pb2.Vm.RUNNING, "the VM running", 150, 0.2)
            assert fleet.processes(vm.id) == 1
    finally:
        host.boot()
        host.start_libvirt()
        host.start_agent()
    fleet.wait_state(host, host_pb2.Host.UP, 120)
    assert fleet.assert_runs_once(NAME) in ("h1", "h2")
    fleet.delete_vm(NAME)
