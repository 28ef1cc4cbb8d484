"""Live migration by the driver, between two lab hosts over TLS: moves, and every way not to move."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ostler_agent.hypervisors.base import Destination, MigrationLimits, MigrationOutcome
from ostler_agent.hypervisors.libvirt.addresses import own
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
from ostler_agent.spec import Firmware, PowerState, VmSpec, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_common import pki
from ostler_common.errors import AbortedError, CancelledError, DeadlineExceededError
from ostler_common.identity import Identity, Kind

from tests.lab.host import LOCAL, REPOSITORY, SHARED, Host, environment, wait_for
from tests.lab.lab import Lab, install_client
from tests.lab.machines import (
    MIB,
    RecordedProgress,
    RecordingListener,
    empty_image,
    expect,
    guest_disk,
    in_shared,
    new_id,
    new_key,
    secrets_on,
    spec,
    volume,
)

pytestmark = pytest.mark.lab

SLOW = MigrationLimits(bandwidth_bytes_per_s=2 * MIB, auto_converge=False)


@dataclass
class Side:
    """A host, its driver, and what the driver told."""

    host: Host
    driver: LibvirtDriver
    listener: RecordingListener

    @classmethod
    @contextmanager
    def of(cls, host: Host) -> Iterator[Side]:
        driver, listener = LibvirtDriver(host.libvirt_uri, "qemu"), RecordingListener()
        driver.open()
        driver.subscribe(listener)
        try:
            yield cls(host, driver, listener)
        finally:
            driver.close()

    def only_here(self, other: Side, vm_id: str) -> bool:
        """Whether the VM runs here, not paused, and the other side has none of it: neither VM nor key."""
        return (
            self.driver.vm(vm_id).power_state is PowerState.RUNNING
            and other.driver.vm(vm_id).power_state is PowerState.ABSENT
            and not secrets_on(other.host)
        )


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(hosts=2) as lab:
        lab.trust_each_other()
        first, second = lab.hosts
        first.admit(second.host_uuid)
        second.admit(first.host_uuid)
        yield lab


@pytest.fixture(scope="module")
def sides(lab: Lab) -> Iterator[tuple[Side, Side]]:
    with Side.of(lab.hosts[0]) as first, Side.of(lab.hosts[1]) as second:
        yield first, second


@pytest.fixture(scope="module")
def guest(sides: tuple[Side, Side]) -> VmSpec:
    """A guest with encrypted disks that both hosts see, running on the first."""
    first, _ = sides
    machine = spec(guest_disk(first.host, volume()), empty_image(first.host, volume()), nics=1)
    first.driver.start(machine, lambda ref: Path(SHARED, ref.volume_id))
    console = first.driver.console(machine.vm_id, force=True)
    expect(console, "tick 1")
    console.close()
    return machine


@pytest.fixture
def where(sides: tuple[Side, Side], guest: VmSpec) -> tuple[Side, Side]:
    """The side that has the guest, and the other."""
    first, second = sides
    return (first, second) if first.driver.running(guest.vm_id) else (second, first)


def destination(host: Host, machine: VmSpec, directory: str = SHARED, moved: tuple[str, ...] = ()) -> Destination:
    return Destination(
        addresses=replace(own(host.address), disks_uri=f"tcp://{host.address}" if moved else ""),
        tls_name=pki.qemu_server_name(host.host_uuid),
        paths={disk.volume.volume_id: Path(directory, disk.volume.volume_id) for disk in machine.disks},
        keys={disk.volume.volume_id: disk.volume.key.key_id for disk in machine.disks if disk.volume.key},
        bridges={nic.mac: nic.bridge for nic in machine.nics},
        moved=moved,
    )


def hold(side: Side, machine: VmSpec) -> list[str]:
    keys = [disk.volume.key for disk in machine.disks if disk.volume.key]
    side.driver.install_keys(machine.vm_id, keys)
    return [key.key_id for key in keys]


def tick(side: Side, vm_id: str) -> int:
    """The guest's own count of seconds, read from its console here."""
    console = side.driver.console(vm_id, force=True)
    try:
        (count,) = re.findall(r"tick (\d+)\r?\n", expect(console, "tick ") + expect(console, "\n"))[:1]
    finally:
        console.close()
    return int(count)


def once_copying(action: Callable[[], None]) -> RecordedProgress:
    """A job's view that acts when the first memory has been sent."""
    progress = RecordedProgress()

    def act(phase: str, percent: int | None) -> None:
        if phase == "copying memory" and (percent or 0) > 0:
            progress.on_progress = lambda phase, percent: None
            action()

    progress.on_progress = act
    return progress


def test_cancelled_it_stays(where: tuple[Side, Side], guest: VmSpec) -> None:
    first, second = where
    key_ids = hold(second, guest)

    def cancel() -> None:
        assert first.driver.vm(guest.vm_id).migrating
        progress.error = CancelledError("no more", "CANCELLED")

    progress = once_copying(cancel)
    with pytest.raises(CancelledError):
        first.driver.migrate(guest.vm_id, destination(second.host, guest), SLOW, progress)
    second.driver.remove_keys(guest.vm_id, key_ids)
    assert first.only_here(second, guest.vm_id)
    assert not first.driver.vm(guest.vm_id).migrating
    assert secrets_on(first.host) == set(key_ids)


def test_too_slow_it_stays(where: tuple[Side, Side], guest: VmSpec) -> None:
    first, second = where
    key_ids = hold(second, guest)
    with pytest.raises(DeadlineExceededError) as error:
        first.driver.migrate(
            guest.vm_id, destination(second.host, guest), replace(SLOW, timeout_s=2), RecordedProgress()
        )
    assert error.value.reason == "MIGRATION_TIMEOUT"
    second.driver.remove_keys(guest.vm_id, key_ids)
    assert first.only_here(second, guest.vm_id)


def test_without_its_keys_it_stays(where: tuple[Side, Side], guest: VmSpec) -> None:
    first, second = where
    with pytest.raises(AbortedError) as error:
        first.driver.migrate(guest.vm_id, destination(second.host, guest), MigrationLimits(), RecordedProgress())
    assert error.value.reason == "MIGRATION_FAILED"
    assert first.only_here(second, guest.vm_id)


def test_it_is_not_sent_to_another_hosts_qemu(where: tuple[Side, Side], guest: VmSpec) -> None:
    """Whoever has a host's QEMU key can receive that host's VMs, and no other's."""
    first, second = where
    key_ids = hold(second, guest)
    other = replace(destination(second.host, guest), tls_name=pki.qemu_server_name(first.host.host_uuid))
    with pytest.raises(AbortedError, match="TLS"):
        first.driver.migrate(guest.vm_id, other, MigrationLimits(), RecordedProgress())
    second.driver.remove_keys(guest.vm_id, key_ids)
    wait_for(lambda: first.only_here(second, guest.vm_id), "the end over there")


def test_a_third_hosts_certificate_opens_nothing_meanwhile(lab: Lab, where: tuple[Side, Side], guest: VmSpec) -> None:
    """Neither files nor QEMU's monitor, while the destination expects its VM from another host."""
    first, second = where
    key_ids = hold(second, guest)
    third = lab.ca.issue(Identity(Kind.HOST, new_id()), addresses=(first.host.address,))
    stolen = install_client(third, first.host, "third")
    opened = []

    def attack() -> None:
        opened.append((first.host.reaches_libvirt(second.host), first.host.reaches_libvirt(second.host, stolen)))
        progress.error = CancelledError("no more", "CANCELLED")

    progress = once_copying(attack)
    with pytest.raises(CancelledError):
        first.driver.migrate(guest.vm_id, destination(second.host, guest), SLOW, progress)
    assert opened == [(True, False)]  # the source, and the third host
    second.driver.remove_keys(guest.vm_id, key_ids)
    assert first.only_here(second, guest.vm_id)


def test_it_stays_when_the_destination_dies(where: tuple[Side, Side], guest: VmSpec) -> None:
    """The QEMU that waits for it over there is killed in the middle; the keys go by themselves."""
    first, second = where
    hold(second, guest)

    def kill() -> None:
        second.host.run("pkill", "-KILL", "-f", guest.vm_id)

    with pytest.raises(AbortedError) as error:
        first.driver.migrate(guest.vm_id, destination(second.host, guest), SLOW, once_copying(kill))
    assert error.value.reason == "MIGRATION_FAILED"
    wait_for(lambda: first.only_here(second, guest.vm_id), "the end over there")
    assert tick(first, guest.vm_id) > 0


def test_it_stays_when_the_network_goes(where: tuple[Side, Side], guest: VmSpec) -> None:
    first, second = where
    hold(second, guest)
    try:
        with pytest.raises(DeadlineExceededError):
            first.driver.migrate(
                guest.vm_id, destination(second.host, guest), replace(SLOW, timeout_s=8), once_copying(second.host.cut)
            )
    finally:
        second.host.mend()
    assert first.driver.vm(guest.vm_id).power_state is PowerState.RUNNING
    wait_for(lambda: first.only_here(second, guest.vm_id), "the end over there", 60)


def test_it_stays_when_libvirtd_restarts_here(where: tuple[Side, Side], guest: VmSpec) -> None:
    """The daemon that moves it is killed: when it is back the outcome is asked for, and is the true one."""
    first, second = where
    hold(second, guest)

    def restart() -> None:
        first.host.stop_libvirt("KILL")
        first.host.start_libvirt()

    with pytest.raises(AbortedError) as error:
        first.driver.migrate(guest.vm_id, destination(second.host, guest), SLOW, once_copying(restart))
    assert error.value.reason == "MIGRATION_FAILED"
    wait_for(lambda: first.only_here(second, guest.vm_id), "the end over there", 60)


MOVER = """
import pickle, sys
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
from tests.lab.machines import RecordedProgress
uri, vm_id, destination, limits = pickle.load(sys.stdin.buffer)
driver = LibvirtDriver(uri, "qemu")
driver.open()
progress = RecordedProgress(on_progress=lambda phase, percent: print(phase, percent, flush=True))
driver.migrate(vm_id, destination, limits, progress)
"""


@contextmanager
def killed_mover(first: Side, second: Side, machine: VmSpec) -> Iterator[None]:
    """A slow move whose agent was killed in the middle."""
    import pickle

    argv = [sys.executable, "-c", MOVER]
    with subprocess.Popen(
        argv, env=environment(), cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as mover:
        assert mover.stdin
        assert mover.stdout
        pickle.dump((first.host.libvirt_uri, machine.vm_id, destination(second.host, machine), SLOW), mover.stdin)
        mover.stdin.close()
        for line in mover.stdout:
            if line.startswith(b"copying memory") and not line.endswith(b" 0\n"):
                break
        os.kill(mover.pid, signal.SIGKILL)
    yield


def test_an_agent_that_died_learns_that_it_stayed(where: tuple[Side, Side], guest: VmSpec) -> None:
    first, second = where
    key_ids = hold(second, guest)
    with killed_mover(first, second, guest):
        assert first.driver.vm(guest.vm_id).migrating
        assert first.driver.await_migration(guest.vm_id, 1, RecordedProgress()) is MigrationOutcome.RUNNING_HERE
    second.driver.remove_keys(guest.vm_id, key_ids)
    assert first.only_here(second, guest.vm_id)


def test_an_agent_that_died_learns_that_it_moved(where: tuple[Side, Side], guest: VmSpec) -> None:
    first, second = where
    hold(second, guest)
    with killed_mover(first, second, guest):
        progress = RecordedProgress()
        first.host.virsh("migrate-setspeed", guest.vm_id, "1000")
        assert first.driver.await_migration(guest.vm_id, 60, progress) is MigrationOutcome.MOVED
        assert "copying memory" in progress.phases
    wait_for(lambda: second.only_here(first, guest.vm_id), "the keys' end")
    # Asked once more, long after, it says the same.
    assert first.driver.await_migration(guest.vm_id, 60, RecordedProgress()) is MigrationOutcome.MOVED


def test_it_moves_with_its_console_counting_on(where: tuple[Side, Side], guest: VmSpec) -> None:
    first, second = where
    assert first.only_here(second, guest.vm_id)
    key_ids = hold(second, guest)
    before, progress, began = tick(first, guest.vm_id), RecordedProgress(), time.monotonic()
    report = first.driver.migrate(guest.vm_id, destination(second.host, guest), MigrationLimits(), progress)
    took_ms = (time.monotonic() - began) * 1000
    assert second.only_here(first, guest.vm_id)
    assert secrets_on(second.host) == set(key_ids)
    assert tick(second, guest.vm_id) >= before
    assert 0 < report.downtime_ms < report.elapsed_ms <= took_ms
    assert report.transferred_bytes > 10 * MIB
    assert progress.percents == sorted(progress.percents)
    wait_for(lambda: ("MIGRATED", "migrated") in first.listener.received(guest.vm_id), "the event of leaving")
    wait_for(lambda: ("MIGRATED", "migrated") in second.listener.received(guest.vm_id), "the event of coming")
    assert guest.vm_id in second.host.virsh("list", "--all", "--persistent", "--uuid")


def test_it_moves_with_its_disks_under_other_keys(sides: tuple[Side, Side]) -> None:
    """Shared-nothing: from one host's own disk to another's, one volume encrypted anew and one plain."""
    first, second = sides
    root, data = (
        guest_disk(first.host, volume(), LOCAL),
        empty_image(first.host, volume(encrypted=False), 16 * MIB, LOCAL),
    )
    here = spec(root, data, nics=1, name="mover")
    first.driver.start(here, lambda ref: Path(LOCAL, ref.volume_id))
    console = first.driver.console(here.vm_id, force=True)
    expect(console, "tick 1")
    console.write(b"mark before-the-move /dev/vdb\n")
    expect(console, "MARKED")
    console.close()

    new_root = replace(root, key=new_key())
    there = replace(here, disks=(replace(here.disks[0], volume=new_root), here.disks[1]))
    size_bytes = qemu_img.info(local_file(first, data), data.format).virtual_size_bytes
    qemu_img.create(local_file(second, new_root), new_root.format, 64 * MIB, key=new_root.key)
    qemu_img.create(local_file(second, data), data.format, size_bytes)
    hold(second, there)
    progress = RecordedProgress()
    report = first.driver.migrate(
        here.vm_id,
        destination(second.host, there, LOCAL, moved=(root.volume_id, data.volume_id)),
        MigrationLimits(),
        progress,
    )
    assert second.driver.vm(here.vm_id).power_state is PowerState.RUNNING
    assert first.driver.vm(here.vm_id).power_state is PowerState.ABSENT
    assert new_root.key
    assert new_root.key.key_id in secrets_on(second.host)
    assert root.key
    assert root.key.key_id not in secrets_on(first.host)
    assert "copying disks" in progress.phases
    assert report.transferred_bytes > 20 * MIB
    console = second.driver.console(here.vm_id, force=True)
    console.write(b"mark after-the-move && head -c 15 /dev/vdb\n")
    expect(console, "before-the-move")
    console.close()
    qemu_img.check_key(local_file(second, new_root), new_root.format, new_root.key)
    second.driver.power_off(here.vm_id)
    # It starts again from its definition over there, with the paths and keys of that place.
    second.driver.start(there, lambda ref: Path(LOCAL, ref.volume_id))
    assert second.driver.vm(here.vm_id).volume_ids == (root.volume_id, data.volume_id)
    second.driver.power_off(here.vm_id)
    second.driver.delete(here.vm_id)


def local_file(side: Side, ref: VolumeRef) -> Path:
    return side.host.outside(f"{LOCAL}/{ref.volume_id}")


def test_it_moves_with_its_firmware_variables(sides: tuple[Side, Side]) -> None:
    first, second = sides
    machine = replace(spec(empty_image(first.host, volume(encrypted=False))), firmware=Firmware.UEFI)
    first.driver.start(machine, in_shared)
    variables = [side.host.outside(f"/var/lib/ostler/libvirt/nvram/{machine.vm_id}_VARS.fd") for side in sides]
    assert [file.exists() for file in variables] == [True, False]
    first.driver.migrate(machine.vm_id, destination(second.host, machine), MigrationLimits(), RecordedProgress())
    assert [file.exists() for file in variables] == [False, True]
    assert first.driver.vm(machine.vm_id).power_state is PowerState.ABSENT
    second.driver.power_off(machine.vm_id)
    second.driver.start(machine, in_shared)
    second.driver.power_off(machine.vm_id)
    second.driver.delete(machine.vm_id)
    assert [file.exists() for file in variables] == [False, False]
