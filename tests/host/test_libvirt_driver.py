"""The libvirt driver against a real libvirtd and QEMU, on one lab host."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import libvirt
import pytest
from ostler_agent.hypervisors.base import Console
from ostler_agent.hypervisors.libvirt.console_log import ConsoleLogs
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
from ostler_agent.hypervisors.libvirt.key_directory import PERSISTENT_DIRECTORY
from ostler_agent.hypervisors.libvirt.png import PNG_MAGIC
from ostler_agent.spec import DiskFormat, DiskSpec, Firmware, NicSpec, PauseReason, PowerState, VmSpec, VolumeRef
from ostler_agent.vms import power
from ostler_common.errors import (
    AbortedError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OstlerError,
    UnavailableError,
)
from ostler_common.key_names import parse_keys

from tests.lab.host import SHARED, Host, wait_for
from tests.lab.lab import Lab
from tests.lab.machines import (
    BRIDGE,
    MIB,
    RecordedProgress,
    RecordingListener,
    empty_image,
    expect,
    guest_disk,
    in_directory,
    in_shared,
    new_id,
    new_key,
    secrets_on,
    spec,
    volume,
)
from tests.rfb import Viewer

pytestmark = pytest.mark.host


@dataclass
class Station:
    """A lab host, a driver for it, and what the driver told."""

    host: Host
    driver: LibvirtDriver
    listener: RecordingListener

    def volatile_keys(self) -> set[str]:
        return secrets_on(self.host)


@pytest.fixture(scope="module")
def station() -> Iterator[Station]:
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        # As libvirt sees it, and as this process does.
        logs = ConsoleLogs(lab.hosts[0].outside("/var/lib/ostler/consoles"))
        driver = LibvirtDriver(lab.hosts[0].libvirt_uri, "qemu", logs)
        driver.open()
        listener = RecordingListener()
        driver.subscribe(listener)
        yield Station(lab.hosts[0], driver, listener)
        driver.close()


@pytest.fixture
def bare(station: Station) -> Iterator[VmSpec]:
    """A running VM with an encrypted disk and nothing on it: no system ever answers."""
    machine = spec(empty_image(station.host, volume()), nics=1)
    station.driver.start(machine, in_shared)
    yield machine
    station.driver.power_off(machine.vm_id)
    station.driver.delete(machine.vm_id)


def reason(error: pytest.ExceptionInfo[OstlerError]) -> str:
    return error.value.reason


def test_a_guest_lives(station: Station) -> None:
    """One boot for all that needs a guest which answers: console, disks that come, grow and go, the power button."""
    driver, host = station.driver, station.host
    root = guest_disk(host, volume())
    data, raw = empty_image(host, volume()), empty_image(host, volume(layout=DiskFormat.RAW))
    machine = spec(root, nics=1)
    vm_id = machine.vm_id
    key_ids = [ref.key.key_id for ref in (root, data, raw) if ref.key]

    driver.start(machine, in_shared)
    assert station.volatile_keys() == {key_ids[0]}
    console = driver.console(vm_id, force=False)
    expect(console, "GUEST-UP")

    # One holder at a time; force takes over.
    with pytest.raises(FailedPreconditionError) as error:
        driver.console(vm_id, force=False)
    assert reason(error) == "CONSOLE_BUSY"
    taken, console = console, driver.console(vm_id, force=True)
    with pytest.raises(AbortedError) as taken_error:
        _read_on(taken)
    assert reason(taken_error) == "CONSOLE_TAKEN"
    taken.close()
    expect(console, "tick")

    assert driver.screenshot(vm_id).startswith(PNG_MAGIC)

    log = driver.console_log(vm_id)
    printed = log.read()
    assert b"[VM starts at " in printed
    assert b"GUEST-UP" in printed
    wait_for(lambda: b"tick" in log.read(), "what the guest goes on to print")

    extra = NicSpec("52:54:00:00:0a:01", BRIDGE, filter=True)
    for _ in range(2):
        driver.attach_nic(vm_id, extra)
    assert host.virsh("domiflist", vm_id).count(extra.mac) == 1
    for _ in range(2):
        driver.detach_nic(vm_id, extra.mac, 30, RecordedProgress())
    assert extra.mac not in host.virsh("domiflist", vm_id) + host.virsh("domiflist", vm_id, "--inactive")

    # Disks come, and come only once.
    for slot, ref in ((1, data), (2, raw)):
        for _ in range(2):
            driver.attach(vm_id, DiskSpec(ref, slot), in_shared(ref))
    assert station.volatile_keys() == set(key_ids)
    assert driver.vm(vm_id).volume_ids == (root.volume_id, data.volume_id, raw.volume_id)
    assert driver.using(data.volume_id) == vm_id
    console.write(b"disks\n")
    assert f"vdb BYTES={16 * MIB}" in expect(console, f"vdc BYTES={16 * MIB}")

    # They grow while the guest looks on, and never shrink.
    for _ in range(2):
        driver.grow_disk(vm_id, data.volume_id, 24 * MIB)
    with pytest.raises(FailedPreconditionError) as error:
        driver.grow_disk(vm_id, data.volume_id, 20 * MIB)
    assert reason(error) == "VOLUME_SHRINK"
    console.write(b"disks\n")
    expect(console, f"vdb BYTES={24 * MIB}")

    # They go, and their keys with them.
    work = RecordedProgress()
    for _ in range(2):
        driver.detach(vm_id, data.volume_id, key_ids[1], 30, work)
    assert work.phases == ["waiting for the guest to release the disk"]
    assert station.volatile_keys() == {key_ids[0], key_ids[2]}
    assert driver.vm(vm_id).volume_ids == (root.volume_id, raw.volume_id)
    assert driver.using(data.volume_id) is None

    _waits_for_space(station, vm_id, console)

    (sample,) = driver.samples()
    assert sample.vm_id == vm_id
    assert sample.cpu_time_ns > 0
    assert sample.rss_bytes > 16 * MIB
    wait_for(lambda: _dirty_rate_is_measured(driver), "how fast it writes memory", 20)

    # The guest obeys the power button; only the event removes the keys.
    driver.shut_down(vm_id)
    wait_for(lambda: not driver.running(vm_id), "the guest's end", 60)
    wait_for(lambda: not station.volatile_keys(), "the end of its keys")
    assert console.read() in (b"",) or not driver.running(vm_id)
    assert b"POWER-BUTTON" in driver.console_log(vm_id).read()
    wait_for(lambda: ("STOPPED", "shutdown") in station.listener.received(vm_id), "the event")
    assert ("STARTED", "booted") in station.listener.received(vm_id)
    driver.delete(vm_id)


def test_a_viewer_sees_the_screen(station: Station, bare: VmSpec) -> None:
    """What the firmware draws comes through a socket that nobody else can open, and no port is open for it."""
    vm_id = bare.vm_id
    screen = station.driver.open_screen(vm_id, force=False)
    with pytest.raises(FailedPreconditionError) as error:
        station.driver.open_screen(vm_id, force=False)
    assert reason(error) == "CONSOLE_BUSY"
    viewer = Viewer(screen.read, screen.write)
    wait_for(lambda: viewer.picture().colors > 1, "text on the screen", 60)
    assert "-vnc" in (command := station.host.run("ps", "-ww", "-C", "qemu-system-x86", "-o", "args="))
    assert "websocket" not in command
    assert station.host.run("ss", "-Hltnp").count("qemu") == 0
    [path] = station.host.run("find", "/var/lib/libvirt/qemu", "-name", "vnc.sock").split()
    with pytest.raises(subprocess.CalledProcessError):  # its directory is QEMU's own
        station.host.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "stat", path)
    taken, screen = screen, station.driver.open_screen(vm_id, force=True)
    with pytest.raises(AbortedError) as taken_error:
        _read_on(taken)
    assert reason(taken_error) == "CONSOLE_TAKEN"
    assert Viewer(screen.read, screen.write).picture().colors > 1
    station.driver.power_off(vm_id)
    _read_on(screen)
    with pytest.raises(FailedPreconditionError) as error:
        station.driver.open_screen(vm_id, force=False)
    assert reason(error) == "VM_NOT_RUNNING"


def test_the_firmware_obeys_the_keyboard(station: Station, bare: VmSpec) -> None:
    """It resets at Ctrl-Alt-Del, once it has come so far as to read the keyboard."""
    vm_id = bare.vm_id

    def reset() -> bool:
        station.driver.send_key(vm_id, parse_keys("ctrl-alt-del"))
        return any(kind == "REBOOTED" for kind, _ in station.listener.received(vm_id))

    wait_for(reset, "the reset", 60, 0.3)


def _waits_for_space(station: Station, vm_id: str, console: Console) -> None:
    """A disk in a pool that is smaller than what the guest writes: it is paused, and goes on once there is space."""
    host, driver, size = station.host, station.driver, 24
    small = f"{SHARED}/small"
    host.run("mkdir", small)
    host.run("mount", "-t", "tmpfs", "-o", f"size={size // 2}m", "tmpfs", small)
    thin = volume(encrypted=False, layout=DiskFormat.RAW)
    host.run("truncate", "-s", f"{size}M", f"{small}/{thin.volume_id}")
    driver.attach(vm_id, DiskSpec(thin, 1), in_directory(small)(thin))
    write = f"dd if=/dev/zero of=/dev/vdb bs=1M count={size} oflag=direct; echo WRITTEN-$?"
    console.write(f"until [ -b /dev/vdb ]; do sleep 1; done; {write}\n".encode())

    wait_for(lambda: driver.vm(vm_id).pause_reason is PauseReason.NO_SPACE, "the pause", 60, 0.2)
    assert driver.vm(vm_id).power_state is PowerState.PAUSED
    wait_for(lambda: ("PAUSED", "ioerror") in station.listener.received(vm_id), "the event")
    host.run("mount", "-o", f"remount,size={2 * size}m", small)
    wait_for(lambda: driver.vm(vm_id).power_state is PowerState.RUNNING, "the guest's resumption", 120, 0.2)
    expect(console, "WRITTEN-0")
    assert driver.vm(vm_id).pause_reason is None
    driver.detach(vm_id, thin.volume_id, None, 30, RecordedProgress())
    host.run("umount", "--lazy", small)  # QEMU may close the file a moment later


def _dirty_rate_is_measured(driver: LibvirtDriver) -> bool:
    driver.samples()
    ((_, record),) = driver.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_DIRTYRATE)
    return bool(record.get("dirtyrate.calc_status") == libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED)


def _read_on(console: Console) -> None:
    while console.read():
        pass


def test_starting_a_running_vm_changes_nothing(station: Station, bare: VmSpec) -> None:
    before = station.host.virsh("domid", bare.vm_id)
    station.driver.start(replace(bare, cpus=2), in_shared)
    assert station.host.virsh("domid", bare.vm_id) == before
    assert station.driver.vm(bare.vm_id).cpus == 1
    with pytest.raises(FailedPreconditionError) as error:
        station.driver.define(replace(bare, cpus=2), in_shared)
    assert reason(error) == "VM_RUNNING"
    with pytest.raises(FailedPreconditionError) as error:
        station.driver.delete(bare.vm_id)
    assert reason(error) == "VM_RUNNING"


def test_what_is_seen_of_a_vm(station: Station, bare: VmSpec) -> None:
    info = station.driver.vm(bare.vm_id)
    assert info == replace(
        info,
        name="guest",
        power_state=PowerState.RUNNING,
        memory_bytes=128 * MIB,
        volume_ids=(bare.disks[0].volume.volume_id,),
        managed=True,
        migrating=False,
    )
    assert info in station.driver.vms()


def test_a_guest_that_does_not_answer_loses_its_plug(station: Station, bare: VmSpec) -> None:
    info = power.stop(station.driver, bare.vm_id, 0.5, RecordedProgress())
    assert info.power_state is PowerState.STOPPED
    assert not station.volatile_keys()
    assert power.stop(station.driver, bare.vm_id, 0.5, RecordedProgress()).power_state is PowerState.STOPPED
    assert power.stop(station.driver, new_id(), 0.5, RecordedProgress()).power_state is PowerState.ABSENT


def test_a_cancelled_stop_leaves_the_vm_running(station: Station, bare: VmSpec) -> None:
    work = RecordedProgress()

    def cancel(phase: str, percent: int | None) -> None:
        work.error = CancelledError("no more", "CANCELLED")

    work.on_progress = cancel
    with pytest.raises(CancelledError):
        power.stop(station.driver, bare.vm_id, 60, work)
    assert station.driver.running(bare.vm_id)
    assert station.volatile_keys()


def test_a_guest_that_keeps_a_disk(station: Station, bare: VmSpec) -> None:
    """No system in it lets go: the disk stays, and goes once the VM is off."""
    data = empty_image(station.host, volume())
    assert data.key
    station.driver.attach(bare.vm_id, DiskSpec(data, 1), in_shared(data))
    for _ in range(2):  # the second finds the first still pending
        with pytest.raises(DeadlineExceededError) as error:
            station.driver.detach(bare.vm_id, data.volume_id, data.key.key_id, 1, RecordedProgress())
        assert reason(error) == "DETACH_TIMEOUT"
    assert data.key.key_id in station.volatile_keys()
    station.driver.power_off(bare.vm_id)
    assert data.volume_id in station.driver.vm(bare.vm_id).volume_ids
    station.driver.detach(bare.vm_id, data.volume_id, data.key.key_id, 1, RecordedProgress())
    assert data.volume_id not in station.driver.vm(bare.vm_id).volume_ids


def test_slots_are_not_shared(station: Station, bare: VmSpec) -> None:
    first, second = empty_image(station.host, volume()), empty_image(station.host, volume())
    station.driver.attach(bare.vm_id, DiskSpec(first, 1), in_shared(first))
    keys = station.volatile_keys()
    for disk, expected in ((DiskSpec(second, 1), "SLOT_TAKEN"), (DiskSpec(first, 2), "VOLUME_ATTACHED")):
        with pytest.raises(FailedPreconditionError) as error:
            station.driver.attach(bare.vm_id, disk, in_shared(disk.volume))
        assert reason(error) == expected
    assert station.volatile_keys() == keys


def test_a_disk_that_does_not_open_is_not_attached(station: Station, bare: VmSpec) -> None:
    data = empty_image(station.host, volume())
    wrong = replace(data, key=new_key())
    keys = station.volatile_keys()
    with pytest.raises(FailedPreconditionError) as error:
        station.driver.attach(bare.vm_id, DiskSpec(wrong, 1), in_shared(wrong))
    assert reason(error) == "WRONG_KEY"
    assert station.volatile_keys() == keys
    assert data.volume_id not in station.host.virsh("dumpxml", "--inactive", bare.vm_id)


def test_a_stopped_vm_takes_and_gives_disks(station: Station, bare: VmSpec) -> None:
    station.driver.power_off(bare.vm_id)
    data = empty_image(station.host, volume())
    station.driver.attach(bare.vm_id, DiskSpec(data, 1), in_shared(data))
    assert data.volume_id in station.driver.vm(bare.vm_id).volume_ids
    assert station.driver.using(data.volume_id) is None
    station.driver.detach(bare.vm_id, data.volume_id, None, 1, RecordedProgress())
    assert data.volume_id not in station.driver.vm(bare.vm_id).volume_ids
    assert not station.volatile_keys()


@pytest.mark.parametrize("layout", [DiskFormat.QCOW2, DiskFormat.RAW])
def test_a_failed_start_leaves_no_key(station: Station, layout: DiskFormat) -> None:
    machine = spec(empty_image(station.host, volume(layout=layout)))
    wrong = replace(machine, disks=(replace(machine.disks[0], volume=replace(machine.disks[0].volume, key=new_key())),))
    with pytest.raises(FailedPreconditionError) as error:
        station.driver.start(wrong, in_shared)
    assert reason(error) == "WRONG_KEY"
    assert not station.volatile_keys()
    blind = replace(wrong, disks=(replace(wrong.disks[0], volume=_without_passphrase(wrong)),))
    with pytest.raises(InvalidArgumentError) as blind_error:
        station.driver.start(blind, in_shared)
    assert reason(blind_error) == "KEY_MISSING"
    station.driver.delete(machine.vm_id)


def _without_passphrase(machine: VmSpec) -> VolumeRef:
    ref = machine.disks[0].volume
    assert ref.key
    return replace(ref, key=replace(ref.key, passphrase=None))


def test_a_disk_opens_once(station: Station, bare: VmSpec) -> None:
    other = replace(bare, vm_id=new_id(), nics=())
    with pytest.raises(FailedPreconditionError) as error:
        station.driver.start(other, in_shared)
    assert reason(error) == "DISK_IN_USE"
    station.driver.delete(other.vm_id)


def test_a_vm_that_did_not_start_is_told_to_be_off(station: Station, bare: VmSpec) -> None:
    """libvirt tells of its definition, which may be looked at while QEMU starts, and not of QEMU's failure."""
    other = replace(bare, vm_id=new_id(), nics=())
    with pytest.raises(FailedPreconditionError):
        station.driver.start(other, in_shared)
    wait_for(lambda: ("STOPPED", "failed") in station.listener.received(other.vm_id), "word of the failure")
    last = [event.vm for event in station.listener.events if event.vm.vm_id == other.vm_id][-1]
    assert last.power_state is PowerState.STOPPED
    station.driver.delete(other.vm_id)


def test_deleting_takes_the_firmware_variables_too(station: Station) -> None:
    machine = replace(spec(empty_image(station.host, volume(encrypted=False))), firmware=Firmware.UEFI)
    station.driver.start(machine, in_shared)
    variables = station.host.outside(f"{PERSISTENT_DIRECTORY}/nvram/{machine.vm_id}_VARS.fd")
    assert variables.exists()
    station.driver.power_off(machine.vm_id)
    assert variables.exists()
    for _ in range(2):
        station.driver.delete(machine.vm_id)
    assert not variables.exists()
    assert station.driver.vm(machine.vm_id).power_state is PowerState.ABSENT


def test_nobody_is_home(station: Station) -> None:
    nobody = new_id()
    station.driver.power_off(nobody)
    station.driver.detach(nobody, new_id(), new_id(), 1, RecordedProgress())
    for call in (
        lambda: station.driver.reboot(nobody, hard=True),
        lambda: station.driver.shut_down(nobody),
        lambda: station.driver.console(nobody, force=False),
        lambda: station.driver.screenshot(nobody),
    ):
        with pytest.raises(NotFoundError) as error:
            call()
        assert reason(error) == "VM_NOT_FOUND"


def test_a_foreign_vm_is_seen_and_left_alone(station: Station, bare: VmSpec) -> None:
    station.driver.power_off(bare.vm_id)
    xml = station.host.virsh("dumpxml", bare.vm_id).replace(bare.vm_id, foreign := new_id())
    start, end = xml.index("<metadata"), xml.index("</metadata>") + len("</metadata>")
    file = station.host.outside("/run/foreign.xml")
    file.write_text(xml[:start] + xml[end:])
    station.host.virsh("define", "/run/foreign.xml")
    assert not station.driver.vm(foreign).managed
    with pytest.raises(FailedPreconditionError) as error:
        power.delete(station.driver, foreign)
    assert reason(error) == "VM_NOT_MANAGED"
    station.host.virsh("undefine", foreign)


def test_keys_left_behind_are_swept_and_foreign_secrets_are_not(station: Station, bare: VmSpec) -> None:
    left, key = new_id(), new_key()
    station.driver.install_keys(left, [key])
    foreign = new_id()
    usage = "<usage type='volume'><volume>/x</volume></usage>"
    xml = f"<secret ephemeral='yes' private='yes'><uuid>{foreign}</uuid>{usage}</secret>"
    station.host.outside("/run/foreign-secret.xml").write_text(xml)
    station.host.virsh("secret-define", "/run/foreign-secret.xml")
    used = {ref.key.key_id for ref in (disk.volume for disk in bare.disks) if ref.key}
    assert station.volatile_keys() == {*used, key.key_id, foreign}
    with pytest.raises(FailedPreconditionError) as error:
        station.driver.install_keys(left, [replace(key, key_id=foreign)])
    assert reason(error) == "SECRET_ID_TAKEN"

    successor = LibvirtDriver(station.host.libvirt_uri, "qemu")  # the agent, started again
    successor.open()
    successor.vms()
    successor.close()
    assert station.volatile_keys() == {*used, foreign}
    station.host.virsh("secret-undefine", foreign)


def test_a_key_follows_its_volume_to_another_vm(station: Station) -> None:
    first, second, key = new_id(), new_id(), new_key()
    station.driver.install_keys(first, [key])
    station.driver.install_keys(second, [key])
    station.driver.remove_keys(first, [key.key_id])
    assert station.volatile_keys() == {key.key_id}
    station.driver.remove_keys(second, [key.key_id])
    assert not station.volatile_keys()


def test_keys_for_a_vm_to_come_outlive_one_that_was(station: Station, bare: VmSpec) -> None:
    """The event for the end of a first incoming migration may arrive after the second was prepared."""
    station.driver.install_keys(bare.vm_id, [key := new_key()])
    station.host.virsh("destroy", bare.vm_id)
    wait_for(lambda: ("STOPPED", "destroyed") in station.listener.received(bare.vm_id), "the event")
    assert key.key_id in station.volatile_keys()
    station.driver.remove_keys(bare.vm_id, [key.key_id])
    assert key.key_id not in station.volatile_keys()


def test_resets_in_the_first_moments_of_the_firmware_hang_no_guest(station: Station, bare: VmSpec) -> None:
    """A reset waits until the firmware is past them, after a start and after a reset."""
    for number in range(24):
        time.sleep(number % 3 * 0.001)
        station.driver.reboot(bare.vm_id, hard=True)

    def has_nothing_to_boot() -> bool:
        """The firmware waits then; a guest that hangs is busy for ever."""
        registers: str = station.host.virsh("qemu-monitor-command", "--hmp", bare.vm_id, "info registers")
        return "HLT=1" in registers

    wait_for(has_nothing_to_boot, "the end of the firmware", 60)


def test_libvirtd_goes_and_comes_back(station: Station, bare: VmSpec) -> None:
    before = station.listener.reconnections
    station.host.stop_libvirt()
    with pytest.raises(UnavailableError) as error:
        station.driver.vms()
    assert reason(error) == "LIBVIRT_UNAVAILABLE"
    station.host.start_libvirt()
    wait_for(lambda: station.listener.reconnections > before, "the driver's return")
    assert station.driver.running(bare.vm_id)
    # Events come again, too. The reset waits until libvirtd has found its VM again: what dies before has no event.
    station.driver.reboot(bare.vm_id, hard=True)
    station.driver.power_off(bare.vm_id)
    wait_for(lambda: ("STOPPED", "destroyed") in station.listener.received(bare.vm_id), "the event")
