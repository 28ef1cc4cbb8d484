"""VMs that QEMU paused for want of space are resumed when there is some."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

import libvirt
from ostler_agent.hypervisors.libvirt.stalls import MIN_FREE_BYTES, FreeSpace, Stalls
from ostler_agent.hypervisors.libvirt.xml.element import OSTLER_NS

VM = "5a8d3b4e-0000-4000-8000-000000000001"
MANAGED = f'<metadata><o:vm xmlns:o="{OSTLER_NS}"/></metadata>'


@dataclass
class Domain:
    """A domain of one disk; its storage is full until `full` is False."""

    managed: bool = True
    reason: int = libvirt.VIR_DOMAIN_PAUSED_IOERROR
    migrating: bool = False
    full: bool = True
    paused: bool = True
    resumed: int = 0

    def UUIDString(self) -> str:
        return VM

    def state(self) -> tuple[int, int]:
        return (libvirt.VIR_DOMAIN_PAUSED, self.reason) if self.paused else (libvirt.VIR_DOMAIN_RUNNING, 0)

    def XMLDesc(self, flags: int = 0) -> str:
        return f"""<domain><name>web</name><memory>1024</memory><vcpu>1</vcpu>{MANAGED if self.managed else ""}<devices>
            <disk type='file' device='disk'><source file='/pool/disk'/><target dev='vda'/></disk></devices></domain>"""

    def jobStats(self) -> dict[str, int]:
        operation = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
        return {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "operation": operation} if self.migrating else {}

    def diskErrors(self) -> dict[str, int]:
        return {"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}

    def resume(self) -> None:
        self.resumed += 1
        self.paused = self.full


@dataclass
class Host:
    """The host of one domain, with a clock. free_bytes: None when nobody knows."""

    domain: Domain
    free_bytes: int | None = None
    clock_s: float = 0.0
    stalls: Stalls = field(init=False)

    def __post_init__(self) -> None:
        self.stalls = Stalls(lambda: self, lambda path: self.free_bytes, lambda: self.clock_s)

    def listAllDomains(self) -> list[Domain]:
        return [self.domain]

    def attempts_within(self, seconds: int) -> int:
        before = self.domain.resumed
        for _ in range(seconds):
            self.clock_s += 1
            self.stalls.turn()
        return self.domain.resumed - before


def test_nothing_is_attempted_until_there_is_space() -> None:
    host = Host(Domain(), free_bytes=MIN_FREE_BYTES - 1)
    assert host.attempts_within(600) == 0
    host.free_bytes, host.domain.full = MIN_FREE_BYTES, False
    assert host.attempts_within(1) == 1
    assert not host.domain.paused


def test_attempts_that_fail_become_rare() -> None:
    host = Host(Domain())
    assert host.attempts_within(100) == 5  # at once, then after 5, 10, 20 and 40 seconds
    assert host.attempts_within(3600) in (13, 14)  # every 300 seconds in the end
    host.domain.full = False
    assert host.attempts_within(300) == 1


def test_a_vm_that_has_run_for_a_minute_is_attempted_at_once_again() -> None:
    host = Host(Domain())
    host.attempts_within(1000)
    host.domain.full = host.domain.paused = False
    host.attempts_within(61)
    host.domain.paused = True
    assert host.attempts_within(1) == 1


def test_other_paused_vms_are_left_alone() -> None:
    for domain in (
        Domain(managed=False),
        Domain(reason=libvirt.VIR_DOMAIN_PAUSED_USER),
        Domain(reason=libvirt.VIR_DOMAIN_PAUSED_MIGRATION),
        Domain(migrating=True),
    ):
        assert Host(domain).attempts_within(60) == 0


def test_free_space_of_a_hanging_file_system_is_unknown_and_asked_once() -> None:
    back, asked = threading.Event(), []

    def hanging(directory: str) -> os.statvfs_result:
        asked.append(directory)
        back.wait()
        return os.statvfs("/")

    space = FreeSpace(hanging, timeout_s=0.01)
    for _ in range(3):
        assert space.of("/pool/disk") is None
    assert asked == ["/pool"]
    back.set()
    space = FreeSpace(os.statvfs)
    assert (space.of("/proc/self") or 0) >= 0
    assert space.of("/no-such-directory/disk") is None
    assert space.of("/dev/ostler/disk") is None
