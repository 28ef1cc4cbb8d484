"""What libvirt says, as values: errors, events, counters, job statistics, capabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import pytest
from ostler_agent.hypervisors.base import AddressSource, MigrationReport, SeenAddress, VmEventKind, VmSample
from ostler_agent.hypervisors.libvirt import host
from ostler_agent.hypervisors.libvirt.dirty import INTERVAL_S, DirtyRates, rate_of
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.events import classify
from ostler_agent.hypervisors.libvirt.guest_addresses import Interface, from_agent, from_neighbors
from ostler_agent.hypervisors.libvirt.migrate import migration_progress, report
from ostler_agent.hypervisors.libvirt.samples import sample
from ostler_agent.hypervisors.libvirt.xml.guest_channel import has_agent
from ostler_agent.hypervisors.libvirt.xml.nics import bridges
from ostler_agent.tools import neighbors
from ostler_common.errors import NotFoundError, UnavailableError

MIB = 1 << 20


def test_a_missing_domain_is_not_found() -> None:
    connection = libvirt.open("test:///default")
    with pytest.raises(NotFoundError) as error, translated("looking"):
        connection.lookupByName("nobody")
    assert error.value.reason == "VM_NOT_FOUND"
    assert error.value.message.startswith("looking: ")


def test_a_missing_daemon_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as error, translated("connecting"):
        libvirt.open(f"qemu:///system?socket={tmp_path}/nobody")
    assert error.value.reason == "LIBVIRT_UNAVAILABLE"


@pytest.mark.parametrize(
    ("event", "detail", "expected"),
    [
        (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED, (VmEventKind.STARTED, "booted")),
        (
            libvirt.VIR_DOMAIN_EVENT_STOPPED,
            libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN,
            (VmEventKind.STOPPED, "shutdown"),
        ),
        (
            libvirt.VIR_DOMAIN_EVENT_STOPPED,
            libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED,
            (VmEventKind.MIGRATED, "migrated"),
        ),
        (
            libvirt.VIR_DOMAIN_EVENT_RESUMED,
            libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED,
            (VmEventKind.MIGRATED, "migrated"),
        ),
        (
            libvirt.VIR_DOMAIN_EVENT_SUSPENDED,
            libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR,
            (VmEventKind.PAUSED, "ioerror"),
        ),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, 999, (VmEventKind.STOPPED, "999")),
        (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST, None),
    ],
)
def test_events(event: int, detail: int, expected: tuple[VmEventKind, str] | None) -> None:
    assert classify(event, detail) == expected


def test_counters() -> None:
    record = {"cpu.time": 5, "balloon.rss": 2, "balloon.available": 10, "balloon.usable": 4, "balloon.unused": 3}
    assert sample("v", record) == VmSample("v", 5, 2048, 6 * 1024)
    assert sample("v", {}) == VmSample("v", 0, 0, 0)


def test_the_rate_of_writing_memory_counts_only_once_measured() -> None:
    measured = libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED
    assert rate_of({"dirtyrate.calc_status": measured, "dirtyrate.megabytes_per_second": 7}) == 7 * MIB
    assert rate_of({"dirtyrate.calc_status": measured, "dirtyrate.megabytes_per_second": -1}) == 0
    assert rate_of({"dirtyrate.calc_status": libvirt.VIR_DOMAIN_DIRTYRATE_MEASURING}) == 0
    assert rate_of({}) == 0


class Measured:
    def __init__(self, vm_id: str, fails: bool = False) -> None:
        self.vm_id, self.fails, self.begun = vm_id, fails, 0

    def UUIDString(self) -> str:
        return self.vm_id

    def startDirtyRateCalc(self, seconds: int) -> None:
        self.begun += 1
        if self.fails:
            raise libvirt.libvirtError("it migrates")


def test_one_vm_at_a_time_is_measured_and_each_not_too_often() -> None:
    clock = [0.0]
    rates = DirtyRates(lambda: clock[0], lambda call: call())
    vms = [Measured("a"), Measured("b", fails=True), Measured("c")]
    for _ in range(5):
        rates.begin_next(vms)
        clock[0] += 5
    assert [vm.begun for vm in vms] == [1, 1, 1]
    clock[0] = INTERVAL_S + 6
    for _ in range(2):
        rates.begin_next(vms[1:])
    assert [vm.begun for vm in vms] == [1, 2, 1]
    rates.begin_next([])
    rates.begin_next(vms[:1])
    assert vms[0].begun == 2, "one that came back is new"


def test_a_call_that_waits_holds_up_neither_load_nor_others() -> None:
    waiting: list[Callable[[], None]] = []
    vms = [Measured("a"), Measured("b")]
    rates = DirtyRates(lambda: 0.0, waiting.append)
    rates.begin_next(vms)
    rates.begin_next(vms)
    assert len(waiting) == 1, "one call at a time"
    waiting.pop()()
    assert (vms[0].begun, vms[1].begun) == (1, 0)
    rates.begin_next(vms)
    waiting.pop()()
    assert (vms[0].begun, vms[1].begun) == (1, 1)


def test_progress_counts_memory_from_the_start() -> None:
    copying = migration_progress({"disk_total": 300 * MIB, "disk_remaining": 150 * MIB}, 100 * MIB)
    assert (copying.phase, copying.done_bytes, copying.total_bytes, copying.percent) == (
        "copying disks",
        150 * MIB,
        300 * MIB,
        37,
    )
    memory = migration_progress(
        {"memory_total": 110 * MIB, "memory_remaining": 50 * MIB, "memory_processed": 60 * MIB}, 100 * MIB
    )
    assert (memory.phase, memory.done_bytes, memory.percent) == ("copying memory", 60 * MIB, 50)
    assert migration_progress({"memory_total": 110 * MIB, "memory_remaining": 0}, 100 * MIB).percent == 99
    assert migration_progress({}, 100 * MIB).percent == 0


def test_report() -> None:
    stats = {"time_elapsed": 900, "downtime": 12, "data_processed": 5, "memory_dirty_rate": 3, "memory_page_size": 4096}
    assert report(stats, 1000) == MigrationReport(900, 12, 5, 3 * 4096)
    assert report({}, 1000) == MigrationReport(1000, 0, 0, 0)


def test_domain_types_of_this_architecture_only() -> None:
    xml = """<capabilities>
      <guest><os_type>hvm</os_type><arch name='i686'><domain type='kvm'/></arch></guest>
      <guest><os_type>hvm</os_type><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest>
      <guest><os_type>xen</os_type><arch name='x86_64'><domain type='xen'/></arch></guest></capabilities>"""
    assert host.domain_types(xml) == ["qemu", "kvm"]


def test_what_a_guest_agent_says_of_addresses() -> None:
    """It may name interfaces without a MAC address, or without addresses."""
    said: dict[str, Interface] = {
        "lo": {"addrs": [{"addr": "127.0.0.1", "prefix": 8, "type": 0}], "hwaddr": None},
        "eth0": {"addrs": [{"addr": "192.0.2.7", "prefix": 24, "type": 0}], "hwaddr": "52:54:00:00:00:01"},
        "eth1": {"addrs": None, "hwaddr": "52:54:00:00:00:02"},
    }
    source = AddressSource.GUEST_AGENT
    assert from_agent(said) == [
        SeenAddress("", "127.0.0.1", source),
        SeenAddress("52:54:00:00:00:01", "192.0.2.7", source),
    ]


@pytest.mark.parametrize(("state", "connected"), [("connected", True), ("disconnected", False)])
def test_a_guest_agent_is_asked_only_when_it_is_connected(state: str, connected: bool) -> None:
    target = f"<target type='virtio' name='org.qemu.guest_agent.0' state='{state}'/>"
    channel = f"<domain><devices><channel type='unix'>{target}</channel></devices></domain>"
    assert has_agent(ElementTree.fromstring(channel)) is connected
    assert not has_agent(ElementTree.fromstring("<domain><devices/></domain>"))


def test_neighbors_count_on_the_bridge_of_the_interface_alone() -> None:
    mac = "52:54:00:00:00:01"
    table = neighbors.parse(
        [
            {"dst": "192.0.2.7", "dev": "br0", "lladdr": mac.upper(), "state": ["DELAY"]},
            {"dst": "192.0.2.8", "dev": "br1", "lladdr": mac, "state": ["REACHABLE"]},
            {"dst": "192.0.2.9", "dev": "br0", "lladdr": mac, "state": ["FAILED"]},
            {"dst": "192.0.2.10", "dev": "br0", "state": ["INCOMPLETE"]},
            {"dst": "2001:db8::7", "dev": "br0", "lladdr": mac, "router": None, "state": ["STALE"]},
        ]
    )
    assert [seen.address for seen in from_neighbors(table, {mac: "br0"})] == ["192.0.2.7", "2001:db8::7"]
    interface = f"<interface type='bridge'><mac address='{mac.upper()}'/><source bridge='br0'/></interface>"
    socket = "<interface type='vhostuser'><mac address='52:54:00:00:00:02'/><source type='unix' path='/x'/></interface>"
    domain = ElementTree.fromstring(f"<domain><devices>{interface}{socket}</devices></domain>")
    assert bridges(domain) == {mac: "br0"}
