"""The guest agent in a real guest, through libvirt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from ostler_agent.hypervisors.base import Console
from ostler_agent.hypervisors.libvirt.console_log import ConsoleLogs
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
from ostler_agent.spec import Freeze
from ostler_agent.vms import guest, power
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_common.secret import Secret

from tests.lab.host import Host, wait_for
from tests.lab.lab import Lab
from tests.lab.machines import MIB, RecordedProgress, empty_image, expect, guest_disk, in_shared, spec, volume

pytestmark = pytest.mark.host


@dataclass
class Station:
    host: Host
    driver: LibvirtDriver


@pytest.fixture(scope="module")
def station() -> Iterator[Station]:
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        driver = LibvirtDriver(
            lab.hosts[0].libvirt_uri, "qemu", ConsoleLogs(lab.hosts[0].outside("/var/lib/ostler/consoles"))
        )
        driver.open()
        yield Station(lab.hosts[0], driver)
        driver.close()


def run(console: Console, command: str) -> str:
    console.write(f"{command}; echo DO''NE\n".encode())  # the terminal shows what is typed, too
    return expect(console, "DONE")


def answers(driver: LibvirtDriver, vm_id: str) -> bool:
    try:
        return driver.guest_info(vm_id).agent_version != ""
    except OstlerError:
        return False


def test_a_guest_agent_is_asked(station: Station) -> None:
    """One boot for all of it."""
    driver = station.driver
    machine = spec(guest_disk(station.host, volume()), nics=1)
    vm_id = machine.vm_id
    driver.start(machine, in_shared)
    console = driver.console(vm_id, force=False)
    expect(console, "GUEST-UP")
    with pytest.raises(FailedPreconditionError) as missing:
        driver.guest_info(vm_id)
    assert missing.value.reason == "GUEST_AGENT_MISSING"

    assert "AGENT-STARTED" in run(console, "hostname lab-guest; guest-agent")
    wait_for(lambda: answers(driver, vm_id), "the guest agent", 60, 0.5)
    info = driver.guest_info(vm_id)
    assert info.host_name == "lab-guest"
    assert (info.os_name, info.os_version) == ("Lab guest 1.0", "1.0")
    assert info.agent_version.startswith("7.")
    assert "cloud" in info.kernel
    [root] = [found for found in info.file_systems if found.mount_point == "/"]
    assert (root.type, root.total_bytes > root.used_bytes > 0) == ("ext4", True)
    assert machine.nics[0].mac in {interface.mac for interface in info.interfaces}

    run(console, "date -s 2001-01-01")
    assert driver.guest_info(vm_id).time_s < time.time() - 10**8
    driver.set_guest_time(vm_id)
    assert abs(driver.guest_info(vm_id).time_s - time.time()) < 30

    driver.set_guest_password(vm_id, "root", Secret(b"correct horse"))
    assert "root:$" in run(console, "cat /etc/passwd")
    with pytest.raises(FailedPreconditionError) as refused:
        driver.set_guest_password(vm_id, "nobody-here", Secret(b"battery staple"))
    assert refused.value.reason == "GUEST_AGENT_REFUSED"
    assert "battery" not in str(refused.value)

    run(console, "mkdir -p -m 700 /root/.ssh; echo ssh-rsa an-old-key >/root/.ssh/authorized_keys")
    new, newer = (f"ssh-ed25519 {letter * 68} {letter}" for letter in "AB")
    driver.set_guest_ssh_keys(vm_id, "root", [new], keep_others=False)
    assert "an-old-key" not in run(console, "cat /root/.ssh/authorized_keys")
    driver.set_guest_ssh_keys(vm_id, "root", [newer], keep_others=True)
    driver.set_guest_ssh_keys(vm_id, "root", [newer], keep_others=True)
    said = run(console, "cat /root/.ssh/authorized_keys")
    assert (said.count(new), said.count(newer)) == (1, 1)
    with pytest.raises(FailedPreconditionError) as nobody:
        driver.set_guest_ssh_keys(vm_id, "nobody-here", [new], keep_others=False)
    assert nobody.value.reason == "GUEST_AGENT_REFUSED"

    # A copy begins between a freeze and a thaw, and the guest goes on to write.
    def copied() -> Freeze:
        target = empty_image(station.host, volume(), root_bytes)
        return driver.copy_disk(vm_id, machine.disks[0].volume.volume_id, target, in_shared(target), RecordedProgress())

    root_bytes = 64 * MIB
    assert copied() == Freeze(True)
    assert "MARKED" in run(console, "mark after-the-thaw")

    # Frozen by an agent that has died since: the next one thaws.
    domain = driver._session.connect().lookupByUUIDString(vm_id)
    assert domain.fsFreeze() == 1
    driver.end_copy(vm_id, None, in_shared(volume()))
    assert "MARKED" in run(console, "mark after-the-restart")

    # One that hangs holds nobody: its caller is told, and the VM answers meanwhile.
    run(console, "kill -STOP $(cat /tmp/qemu-ga.pid)")
    begin = time.monotonic()
    with pytest.raises(UnavailableError) as silent:
        driver.guest_info(vm_id)
    assert silent.value.reason == "GUEST_AGENT_SILENT"
    assert time.monotonic() - begin < 20
    assert driver.screenshot(vm_id)
    assert copied() == Freeze(False, "the guest agent did not answer in time")
    run(console, "kill -CONT $(cat /tmp/qemu-ga.pid)")
    wait_for(lambda: answers(driver, vm_id), "its answer", 60, 0.5)
    assert "MARKED" in run(console, "mark after-the-late-freeze")

    work = RecordedProgress()
    power.stop(driver, vm_id, 90, work)
    assert work.phases == ["waiting for the guest to shut down (its guest agent was asked)"]
    assert b"AGENT-SHUTDOWN" in driver.console_log(vm_id).read()
    driver.delete(vm_id)


def test_a_guest_without_an_agent_has_its_power_button_pressed(station: Station) -> None:
    driver = station.driver
    machine = spec(guest_disk(station.host, volume()))
    driver.start(machine, in_shared)
    target = empty_image(station.host, volume(), 64 * MIB)
    root = machine.disks[0].volume
    freeze = driver.copy_disk(machine.vm_id, root.volume_id, target, in_shared(target), RecordedProgress())
    assert freeze == Freeze(False, "no guest agent is connected")
    how = guest.shut_down(driver, machine.vm_id)
    assert how == "its power button was pressed; no guest agent is connected"
    driver.power_off(machine.vm_id)
    driver.delete(machine.vm_id)
