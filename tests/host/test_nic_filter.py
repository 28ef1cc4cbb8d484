"""Spoofed frames are dropped on the host: a real libvirtd, QEMU and ebtables on one lab host.

The test stands on the VM's tap device with QEMU's own descriptor, so that what it writes is what the guest sends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
from ostler_agent.hypervisors.libvirt.xml import nwfilters
from ostler_agent.spec import NicSpec, VmSpec
from ostler_common.errors import DeadlineExceededError

from tests.lab.host import Host, wait_for
from tests.lab.lab import Lab
from tests.lab.machines import BRIDGE, RecordedProgress, empty_image, in_shared, spec, volume

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(shutil.which("ebtables") is None, reason="needs ebtables, with which libvirt filters"),
]

MAC, OTHER = "52:54:00:0a:0b:0c", "52:54:00:ff:ff:ff"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
PAYLOAD = 46  # the least that Ethernet has
_PIDFD_GETFD = 438
_TUNGETVNETHDRSZ = 0x800454D7
_ETH_P_ALL = 3


@dataclass
class Wire:
    """The VM's end of its network interface, and the other end of the host's cable."""

    tap: int
    cable: socket.socket

    def passes(self, frame: bytes) -> bool:
        """Whether this frame, sent by the guest, leaves the host. A frame that passes, sent after it, ends the wait."""
        marker = ether(MAC, 0x88B5, os.urandom(16))  # an ethertype for experiments: only its sender counts
        for sent in (frame, marker):
            size = struct.unpack("i", fcntl.ioctl(self.tap, _TUNGETVNETHDRSZ, struct.pack("i", 0)))[0]
            os.write(self.tap, bytes(size) + sent)
        end, seen = time.monotonic() + 10, False
        while time.monotonic() < end:
            received = self.cable.recv(2048)
            seen = seen or received.startswith(frame)
            if received.startswith(marker):
                return seen
        raise TimeoutError("not even a frame with the VM's own address leaves the host")


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ether(source: str, kind: int, payload: bytes) -> bytes:
    return octets(EVERYBODY) + octets(source) + struct.pack("!H", kind) + payload.ljust(PAYLOAD, b"\0")


def arp(source: str, sender: str, address: str) -> bytes:
    ip = socket.inet_aton(address)
    return ether(source, ARP, struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + octets(sender) + ip + bytes(6) + ip)


def ipv4(address: str) -> bytes:
    def head(checksum: int) -> bytes:
        fixed = struct.pack("!BBHHHBBH", 0x45, 0, PAYLOAD, 0, 0, 64, 253, checksum)
        return fixed + socket.inet_aton(address) + socket.inet_aton("192.0.2.255")

    total = sum(struct.unpack("!10H", head(0)))  # RFC 1071; bridges with netfilter drop what is not right
    return ether(MAC, IPV4, head(~((total & 0xFFFF) + (total >> 16)) & 0xFFFF))


def ipv6(address: str) -> bytes:
    source, everybody = socket.inet_pton(socket.AF_INET6, address), socket.inet_pton(socket.AF_INET6, "ff02::1")
    return ether(MAC, IPV6, struct.pack("!IHBB", 6 << 28, PAYLOAD - 40, 59, 64) + source + everybody)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(hosts=1) as lab:
        lab.trust_each_other()
        yield lab


@pytest.fixture(scope="module")
def driver(lab: Lab) -> Iterator[LibvirtDriver]:
    driver = LibvirtDriver(lab.hosts[0].libvirt_uri, "qemu")
    driver.open()
    yield driver
    driver.close()


@contextmanager
def wire(lab: Lab, driver: LibvirtDriver, nic: NicSpec) -> Iterator[Wire]:
    """Of a running VM with this interface, on whose disk is nothing."""
    host = lab.hosts[0]
    machine = replace(spec(empty_image(host, volume())), nics=(nic,))
    driver.start(machine, in_shared)
    try:
        with on_tap(lab, machine) as vm:
            yield vm
    finally:
        driver.power_off(machine.vm_id)
        driver.delete(machine.vm_id)


@contextmanager
def on_tap(lab: Lab, machine: VmSpec) -> Iterator[Wire]:
    """Of a running VM with one interface."""
    tap = tap_of(lab.hosts[0], machine)
    try:
        with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))) as cable:
            cable.bind((lab.network.port(1), 0))
            cable.settimeout(10)
            yield Wire(tap, cable)
    finally:
        os.close(tap)


def tap_of(host: Host, machine: VmSpec) -> int:
    """A copy of QEMU's descriptor of the VM's tap device."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if machine.vm_id.encode() not in (process / "cmdline").read_bytes():
                continue
            fds = [int(fd.name) for fd in (process / "fd").iterdir() if os.readlink(fd) == "/dev/net/tun"]
        except OSError:  # it ended
            continue
        if fds:
            pidfd = os.pidfd_open(int(process.name))
            tap = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, fds[0], 0)
            os.close(pidfd)
            assert tap >= 0, os.strerror(ctypes.get_errno())
            return int(tap)
    raise LookupError("no QEMU has a tap device open")


def test_a_vm_sends_only_from_its_own_mac_address(lab: Lab, driver: LibvirtDriver) -> None:
    with wire(lab, driver, NicSpec(MAC, BRIDGE, filter=True)) as vm:
        assert vm.passes(ether(MAC, 0x88B6, b"mine"))
        assert not vm.passes(ether(OTHER, 0x88B6, b"spoofed"))
        assert vm.passes(arp(MAC, MAC, "192.0.2.1"))  # nobody said what its addresses are
        assert not vm.passes(arp(MAC, OTHER, "192.0.2.1"))
        assert not vm.passes(arp(OTHER, OTHER, "192.0.2.1"))
        assert vm.passes(ipv4("192.0.2.1"))
        tagged = octets(EVERYBODY) + octets(MAC) + struct.pack("!HHH", VLAN, 100, 0x88B6) + b"hop".ljust(46, b"\0")
        assert not vm.passes(tagged)


def test_a_vm_sends_only_from_its_stated_addresses(lab: Lab, driver: LibvirtDriver) -> None:
    addresses = ("192.0.2.7", "192.0.2.8", "2001:db8::7")
    with wire(lab, driver, NicSpec(MAC, BRIDGE, filter=True, addresses=addresses)) as vm:
        for own in ("192.0.2.7", "192.0.2.8"):
            assert vm.passes(arp(MAC, MAC, own)), own
            assert vm.passes(ipv4(own)), own
        assert not vm.passes(arp(MAC, MAC, "192.0.2.1"))
        assert not vm.passes(ipv4("192.0.2.1"))
        assert vm.passes(ipv6("2001:db8::7"))
        assert vm.passes(ipv6("fe80::1"))
        assert not vm.passes(ipv6("2001:db8::1"))
        assert not vm.passes(ether(OTHER, 0x88B6, b"spoofed"))


def test_a_network_without_filter_lets_everything_pass(lab: Lab, driver: LibvirtDriver) -> None:
    """Nested hypervisors and routers need it; and the tests above see what they say they see."""
    with wire(lab, driver, NicSpec(MAC, BRIDGE)) as vm:
        assert vm.passes(ether(OTHER, 0x88B6, b"spoofed"))
        assert vm.passes(arp(MAC, OTHER, "192.0.2.1"))


def test_an_interface_that_a_running_vm_gets_is_filtered(lab: Lab, driver: LibvirtDriver) -> None:
    host = lab.hosts[0]
    machine = spec(empty_image(host, volume()))
    driver.start(machine, in_shared)
    try:
        for _ in range(2):
            driver.attach_nic(machine.vm_id, NicSpec(MAC, BRIDGE, filter=True))
        assert host.virsh("domiflist", machine.vm_id).count(MAC) == 1
        assert host.virsh("domiflist", machine.vm_id, "--inactive").count(MAC) == 1
        with on_tap(lab, machine) as vm:
            assert not vm.passes(ether(OTHER, 0x88B6, b"spoofed"))
        with pytest.raises(DeadlineExceededError):  # nobody in the VM answers
            driver.detach_nic(machine.vm_id, MAC, 1, RecordedProgress())
    finally:
        driver.power_off(machine.vm_id)
    for _ in range(2):
        driver.detach_nic(machine.vm_id, MAC, 1, RecordedProgress())
    assert MAC not in host.virsh("domiflist", machine.vm_id, "--inactive")
    driver.delete(machine.vm_id)


def test_filters_return_when_somebody_has_removed_them(lab: Lab, driver: LibvirtDriver) -> None:
    host = lab.hosts[0]
    for name in reversed([name for name, _ in nwfilters.definitions()]):
        host.virsh("nwfilter-undefine", name)
    with wire(lab, driver, NicSpec(MAC, BRIDGE, filter=True)) as vm:
        assert not vm.passes(ether(OTHER, 0x88B6, b"spoofed"))


def test_the_mtu_is_that_of_the_network(lab: Lab, driver: LibvirtDriver) -> None:
    host = lab.hosts[0]
    with wire(lab, driver, NicSpec(MAC, BRIDGE, mtu=1400)):
        wait_for(lambda: "mtu 1400" in host.run("ip", "-o", "link", "show", "type", "tun"), "the tap device's MTU")
