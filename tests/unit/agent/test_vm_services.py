"""The agent's services of VMs, migration and the host, through gRPC, over a hypervisor in memory."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from ostler.agent.v1 import host_pb2, host_pb2_grpc, vm_pb2, vm_pb2_grpc
from ostler.types.v1 import job_pb2, volume_pb2
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_agent.capabilities import Capabilities, HypervisorFacts, Probe
from ostler_agent.guardian import desk
from ostler_agent.guardian.guards import Guard
from ostler_agent.guardian.lease import Lease
from ostler_agent.hypervisors.base import AddressSource, MigrationOutcome, SeenAddress, VmEvent, VmEventKind, VmSample
from ostler_agent.hypervisors.guest import GuestInfo, GuestUser
from ostler_agent.hypervisors.libvirt.info import INFO
from ostler_agent.isos import Isos
from ostler_agent.jobs import JobContext, Jobs
from ostler_agent.journal import Journal, Record, digest
from ostler_agent.looks import Looks
from ostler_agent.migration.admissions import Admissions, Source
from ostler_agent.migration.destination import IncomingMigrations
from ostler_agent.services.host import HostIdentity, HostService
from ostler_agent.services.migration import MigrationService
from ostler_agent.services.vms import VmService
from ostler_agent.spec import Cdrom, FirmwareState, PowerState, Provisioning, VolumeRef
from ostler_agent.vms import guest
from ostler_common import channel
from ostler_common.errors import NotFoundError, OstlerError, from_rpc_error, from_status
from ostler_common.guest_info import MAX_ITEMS
from ostler_common.hypervisors import Function
from ostler_common.identity import Identity, Kind
from ostler_common.seen_addresses import MAX_SEEN_ADDRESSES
from ostler_common.server import serve
from ostler_common.tls import server_credentials

from tests.fakes.certificates import ThrowawayCa
from tests.fakes.hypervisor import FakeConsole, FakeHypervisor
from tests.images import qcow2

HOST = "5b6c9a0c-0000-4000-8000-000000000001"
OTHER_HOST = "5b6c9a0c-0000-4000-8000-000000000002"
VM = "7b6c9a0c-0000-4000-8000-000000000001"
VOLUME = "8b6c9a0c-0000-4000-8000-000000000001"
State = job_pb2.JobUpdate.State

CAPABILITIES = Capabilities(
    driver=INFO,
    hypervisor=HypervisorFacts(hypervisor_version="7.2.22", cpus=4, memory_bytes=1 << 30, domain_types=("qemu",)),
    bridges=("br0",),
    pool_types=("local",),
    probes=(Probe("volume-encryption.qemu-img", ok=True, detail="7.2"), Probe("uefi", ok=False, reason="no firmware")),
)


@dataclass
class FakeProber:
    found: Capabilities = CAPABILITIES
    listeners: list[Callable[[Capabilities], None]] = field(default_factory=list)

    def current(self) -> Capabilities:
        return self.found

    def probe(self) -> Capabilities:
        for listener in self.listeners:
            listener(self.found)
        return self.found

    def subscribe(self, listener: Callable[[Capabilities], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)


@dataclass
class FakeTrust:
    told: list[tuple[bytes, bytes, str]] = field(default_factory=list)

    def update(self, ca_pem: bytes, crl_pem: bytes, control_address: str = "") -> None:
        self.told.append((ca_pem, crl_pem, control_address))


class FakeGuards:
    """A guardian that guards, and one lease."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str]] = []

    def keep(self, pool_id: str, stamp: str) -> Guard:
        self.kept.append((pool_id, stamp))
        return Guard(desk.Status(desk.State.GUARDING, "boot", "term", 5, 12.5, since=12.0, pool_id=pool_id), 50)

    def read(self, pool_id: str, host_id: str) -> Lease:
        return Lease("other", 7, released=True)


class NoVolumes:
    def create(self, job: JobContext, ref: VolumeRef, size_bytes: int, provisioning: Provisioning) -> object:
        raise AssertionError

    def delete(self, job: JobContext, ref: VolumeRef) -> None:
        raise AssertionError


ISO = b"CD001" * 1024 + bytes(1024 * 3)


class Agent:
    """The services, served and called over mutual TLS."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.driver, self.prober, self.trust = FakeHypervisor(), FakeProber(), FakeTrust()
        self.admissions = Admissions(root / "admissions")
        self.jobs = Jobs(root / "jobs")
        self.unmap_if_unused: list[str] = []
        self.isos = Isos(lambda source, offset: iter([ISO[offset:]]), root / "isos")
        self.guards = FakeGuards()
        authority = ThrowawayCa(root)
        facts = HostIdentity(HOST, "1.2.3", lambda: datetime(2030, 1, 1, tzinfo=UTC))
        host = HostService(self.driver, self.prober, self.trust, facts, self.guards)
        vms = VmService(self.jobs, self.driver, self.path, self.unmap_if_unused.append, self.isos)
        incoming = IncomingMigrations(
            self.driver, NoVolumes(), self.path, "10.0.0.2", "h2.qemu", self.admissions, self.isos
        )
        migration = MigrationService(self.jobs, self.driver, incoming)
        self.server = serve(
            "127.0.0.1:0",
            credentials=server_credentials(authority.issue(Identity(Kind.HOST, HOST))),
            services={
                "ostler.agent.v1.HostService": lambda s: host_pb2_grpc.add_HostServiceServicer_to_server(host, s),
                "ostler.agent.v1.VmService": lambda s: vm_pb2_grpc.add_VmServiceServicer_to_server(vms, s),
                "ostler.agent.v1.MigrationService": lambda s: vm_pb2_grpc.add_MigrationServiceServicer_to_server(
                    migration, s
                ),
            },
            authorize=None,
            workers=8,
        )
        self.channel = channel.open_channel(
            f"127.0.0.1:{self.server.port}",
            authority.issue(Identity(Kind.CONTROL, "c1")),
            channel.host_server_name(HOST),
        )
        self.host = host_pb2_grpc.HostServiceStub(self.channel)
        self.vms = vm_pb2_grpc.VmServiceStub(self.channel)
        self.migration = vm_pb2_grpc.MigrationServiceStub(self.channel)

    def path(self, ref: VolumeRef) -> Path:
        return self.root / ref.volume_id


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.channel.close()
    made.server.stop(0).wait()
    made.jobs.stop(5)


def operation() -> job_pb2.OperationRef:
    return job_pb2.OperationRef(id=str(uuid.uuid4()), attempt=1)


def last(updates: Iterator[job_pb2.JobUpdate]) -> job_pb2.JobUpdate:
    return list(updates)[-1]


def spec() -> types_pb2.VmSpec:
    ref = volume_pb2.VolumeRef(pool_id=VOLUME, volume_id=VOLUME, format=volume_pb2.DISK_FORMAT_QCOW2)
    return types_pb2.VmSpec(
        vm_id=VM, name="web", cpus=1, memory_bytes=128 << 20, disks=[types_pb2.DiskSpec(volume=ref, boot=True)]
    )


# -- the host


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_watcher_hears_all_in_order(agent: Agent) -> None:
    info = agent.driver.add(VM)
    agent.driver.counters = [VmSample(VM, 0, 4096, 0)]
    watch = agent.host.WatchHost(host_pb2.WatchHostRequest(load_interval_ms=500), timeout=30)
    snapshot = next(watch).snapshot
    assert [vm.vm_id for vm in snapshot.vms] == [VM]
    assert snapshot.host.host_id == HOST
    assert snapshot.host.agent_version == "1.2.3"
    assert snapshot.host.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert snapshot.host.certificate_expire_time.ToDatetime(UTC) == datetime(2030, 1, 1, tzinfo=UTC)
    assert snapshot.host.capabilities.volume_encryption
    assert not snapshot.host.capabilities.uefi
    assert [(probe.name, probe.reason) for probe in snapshot.host.capabilities.probes][1] == ("uefi", "no firmware")

    (listener,) = agent.driver.listeners
    when = datetime(2026, 1, 1, tzinfo=UTC)
    for kind in VmEventKind:  # every kind has its word on the wire
        listener.vm_event(VmEvent(kind, replace(info, power_state=PowerState.PAUSED), "why", when))
    events = [next(watch) for _ in VmEventKind]
    assert [host_pb2.VmEvent.Kind.Name(event.vm_event.kind) for event in events] == list(VmEventKind)
    assert events[0].vm_event.vm.power_state == types_pb2.POWER_STATE_PAUSED
    assert (events[0].vm_event.detail, events[0].vm_event.time.ToDatetime(UTC)) == ("why", when)

    agent.host.ProbeCapabilities(host_pb2.ProbeCapabilitiesRequest())
    assert next(watch).capabilities.hypervisor_version == "7.2.22"
    listener.reconnected()
    assert next(watch).WhichOneof("update") == "snapshot"
    load = next(watch).load
    assert load.cpus > 0
    assert [(vm.vm_id, vm.memory_rss_bytes) for vm in load.vms] == [(VM, 4096)]

    watch.cancel()
    wait_until(lambda: not agent.driver.listeners and not agent.prober.listeners)


def test_trust_is_handed_on(agent: Agent) -> None:
    addresses = "ctl1:8440,ctl2:8440"
    agent.host.UpdateTrust(host_pb2.UpdateTrustRequest(ca_pem=b"ca", crl_pem=b"crl", control_address=addresses))
    assert agent.trust.told == [(b"ca", b"crl", addresses)]
    for bad in ("ctl1:8440,http://x", "ctl1", ",".join(["ctl1:8440"] * 100)):
        with pytest.raises(grpc.RpcError) as caught:
            agent.host.UpdateTrust(host_pb2.UpdateTrustRequest(ca_pem=b"ca", control_address=bad))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(agent.trust.told) == 1


# -- VMs


def test_a_host_is_told_what_to_guard_and_reads_the_lease_of_another(agent: Agent) -> None:
    guard = agent.host.KeepGuard(host_pb2.KeepGuardRequest(pool_id=HOST, stamp="term/1.5"))
    assert agent.guards.kept == [(HOST, "term/1.5")]
    assert (guard.state, guard.stamp, guard.term) == (host_pb2.Guard.GUARDING, "term/12.5", "term")
    assert (guard.pool_id, guard.ends_within_ms) == (HOST, 50_000)
    lease = agent.host.ReadLease(host_pb2.ReadLeaseRequest(pool_id=HOST, host_id=HOST))
    assert (lease.term, lease.number, lease.released) == ("other", 7, True)
    for bad in (host_pb2.KeepGuardRequest(pool_id="x"), host_pb2.KeepGuardRequest(stamp="x" * 101)):
        with pytest.raises(grpc.RpcError) as caught:
            agent.host.KeepGuard(bad)
        assert from_rpc_error(caught.value).reason == "INVALID_FIELD"


def test_what_a_guest_claims_of_its_addresses_is_checked(agent: Agent) -> None:
    mac = "52:54:00:00:00:01"
    agent.driver.claims = [
        SeenAddress(one, address, AddressSource.NEIGHBOR_TABLE)
        for one, address in (
            (mac.upper(), "192.0.2.7"),
            (mac, "192.0.2.7"),
            (mac, "2001:DB8:0::7"),
            (mac, "::1"),
            (mac, "0.0.0.0"),
            (mac, "fe80::5054:ff:fe00:1"),
            (mac, "224.0.0.1"),
            (mac, "192.0.2.8; reboot"),
            (mac, "1" * 100_000),
            ("no address", "192.0.2.9"),
        )
    ]
    found = agent.vms.ReadVmAddresses(vm_pb2.ReadVmAddressesRequest(vm_id=VM)).addresses
    neighbor = types_pb2.SeenAddress.NEIGHBOR_TABLE
    assert [(seen.mac, seen.address, seen.source) for seen in found] == [
        (mac, "192.0.2.7", neighbor),
        (mac, "2001:db8::7", neighbor),
    ]
    agent.driver.claims = [
        SeenAddress(mac, f"10.0.{n // 256}.{n % 256}", AddressSource.GUEST_AGENT) for n in range(1, 70_00)
    ]
    assert len(agent.vms.ReadVmAddresses(vm_pb2.ReadVmAddressesRequest(vm_id=VM)).addresses) == MAX_SEEN_ADDRESSES


def test_a_vm_by_way_of_jobs(agent: Agent) -> None:
    (agent.root / VOLUME).write_bytes(qcow2())
    started = vm_pb2.StartVmRequest(operation=operation(), spec=spec())
    for _ in range(2):  # a repeated call answers with what is recorded
        final = last(agent.vms.StartVm(started))
        assert (final.state, final.vm.name, final.vm.power_state) == (
            State.SUCCEEDED,
            "web",
            types_pb2.POWER_STATE_RUNNING,
        )
    assert agent.driver.done == ["start"]
    assert [vm.vm_id for vm in agent.vms.ListVms(vm_pb2.ListVmsRequest()).vms] == [VM]
    size = {"cpus": 2, "memory_bytes": 256 << 20}
    resized = last(agent.vms.ResizeVm(vm_pb2.ResizeVmRequest(operation=operation(), vm_id=VM, **size)))
    assert (resized.vm.cpus, resized.vm.memory_bytes) == (2, 256 << 20)
    linked = vm_pb2.SetNicLinkRequest(operation=operation(), vm_id=VM, mac="52:54:00:00:00:01", up=False)
    assert last(agent.vms.SetNicLink(linked)).state == State.SUCCEEDED
    limits = volume_pb2.IoLimits(iops=100)
    limited = vm_pb2.LimitDiskRequest(operation=operation(), vm_id=VM, volume_id=VOLUME, limits=limits)
    assert last(agent.vms.LimitDisk(limited)).state == State.SUCCEEDED
    last(agent.vms.RebootVm(vm_pb2.RebootVmRequest(operation=operation(), vm_id=VM, hard=True)))
    stopped = last(agent.vms.StopVm(vm_pb2.StopVmRequest(operation=operation(), vm_id=VM, timeout_s=10)))
    assert stopped.vm.power_state == types_pb2.POWER_STATE_STOPPED
    last(agent.vms.DeleteVm(vm_pb2.DeleteVmRequest(operation=operation(), vm_id=VM)))
    assert agent.driver.done == ["start", "resize", "set_nic_link", "limit_disk", "reset", "shut_down", "delete"]
    assert agent.vms.GetVm(vm_pb2.GetVmRequest(vm_id=VM)).power_state == types_pb2.POWER_STATE_ABSENT


def test_iso_images_are_fetched_for_a_start_and_for_a_running_vm(agent: Agent) -> None:
    (agent.root / VOLUME).write_bytes(qcow2())
    digest_of = hashlib.sha256(ISO).hexdigest()
    cdrom = types_pb2.Cdrom(iso_id=VM, sha256=digest_of, file_size_bytes=len(ISO), drive=1, boot_first=True)
    with_iso = spec()
    with_iso.cdroms.append(cdrom)
    assert last(agent.vms.StartVm(vm_pb2.StartVmRequest(operation=operation(), spec=with_iso))).state == State.SUCCEEDED
    copy = agent.root / "isos" / digest_of
    assert (copy.read_bytes(), copy.stat().st_mode & 0o777) == (ISO, 0o644), "QEMU must be able to read it"
    assert agent.driver.specs[VM].cdroms == (Cdrom(VM, digest_of, len(ISO), 1, True, copy),)
    ejected = vm_pb2.ChangeCdromRequest(operation=operation(), vm_id=VM, drive=1)
    inserted = vm_pb2.ChangeCdromRequest(operation=operation(), vm_id=VM, drive=0, cdrom=cdrom)
    for request in (ejected, inserted):
        assert last(agent.vms.ChangeCdrom(request)).state == State.SUCCEEDED
    assert agent.driver.done == ["start", "change_cdrom 1", f"change_cdrom 0 {digest_of}"]
    other = types_pb2.Cdrom(iso_id=VM, sha256="0" * 64, file_size_bytes=len(ISO))
    damaged = vm_pb2.ChangeCdromRequest(operation=operation(), vm_id=VM, drive=0, cdrom=other)
    assert last(agent.vms.ChangeCdrom(damaged)).error.details[0].value.count(b"TEMPLATE_CORRUPT") == 1
    for name, wrong in (
        ("drive", vm_pb2.ChangeCdromRequest(operation=operation(), vm_id=VM, drive=2)),
        (
            "cdrom.sha256",
            vm_pb2.ChangeCdromRequest(
                operation=operation(),
                vm_id=VM,
                cdrom=types_pb2.Cdrom(iso_id=VM, sha256="../../etc/passwd", file_size_bytes=1),
            ),
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            last(agent.vms.ChangeCdrom(wrong))
        assert from_rpc_error(caught.value).violations[0].field == name
    with_iso.cdroms.append(cdrom)
    with pytest.raises(grpc.RpcError) as caught:
        last(agent.vms.StartVm(vm_pb2.StartVmRequest(operation=operation(), spec=with_iso)))
    assert from_rpc_error(caught.value).violations[0].field == "spec.cdroms"


def test_a_volume_is_let_go_of_once_it_is_detached(agent: Agent) -> None:
    last(agent.vms.DefineVm(vm_pb2.DefineVmRequest(operation=operation(), spec=spec())))
    request = vm_pb2.DetachVolumeRequest(operation=operation(), vm_id=VM, volume_id=VOLUME)
    assert last(agent.vms.DetachVolume(request)).state == State.SUCCEEDED
    assert agent.unmap_if_unused == [VOLUME]


def test_a_failed_job_tells_why(agent: Agent) -> None:
    final = last(agent.vms.StartVm(vm_pb2.StartVmRequest(operation=operation(), spec=spec())))
    assert final.state == State.FAILED
    assert from_status(final.error).reason == "VOLUME_MISSING"


def test_bad_input_is_refused_by_field(agent: Agent) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        last(agent.vms.StopVm(vm_pb2.StopVmRequest(operation=operation(), vm_id="web")))
    assert from_rpc_error(caught.value).violations[0].field == "vm_id"


def test_a_console_runs_both_ways(agent: Agent) -> None:
    agent.driver.add(VM)
    agent.driver.terminal = FakeConsole([b"login: ", b"welcome"])
    typed = iter([vm_pb2.ConsoleInput(vm_id=VM, data=b"ro"), vm_pb2.ConsoleInput(data=b"ot\n")])
    received = [output.data for output in agent.vms.Console(typed, timeout=10)]
    assert received == [b"", b"login: ", b"welcome"]
    wait_until(lambda: agent.driver.terminal.closed)
    wait_until(lambda: agent.driver.terminal.written.startswith(b"ro"))


def test_a_screen_runs_both_ways(agent: Agent) -> None:
    agent.driver.add(VM)
    agent.driver.terminal = FakeConsole([b"RFB 003.008\n", b"\x01\x01"])
    sent = iter([vm_pb2.ConsoleInput(vm_id=VM, data=b"RFB 003."), vm_pb2.ConsoleInput(data=b"008\n")])
    received = [output.data for output in agent.vms.Screen(sent, timeout=10)]
    assert received == [b"", b"RFB 003.008\n", b"\x01\x01"]
    wait_until(lambda: agent.driver.terminal.closed)
    wait_until(lambda: agent.driver.terminal.written.startswith(b"RFB 003."))
    agent.driver.info = replace(agent.driver.info, functions=agent.driver.info.functions - {Function.SCREEN})
    with pytest.raises(grpc.RpcError) as caught:
        list(agent.vms.Screen(iter([vm_pb2.ConsoleInput(vm_id=VM)]), timeout=10))
    assert from_rpc_error(caught.value).reason == "FUNCTION_NOT_SUPPORTED"


def test_keys_are_pressed(agent: Agent) -> None:
    agent.driver.add(VM)
    agent.vms.SendKey(vm_pb2.SendKeyRequest(vm_id=VM, keys="ctrl-alt-del"))
    assert agent.driver.done == ["send_key [29, 56, 111]"]
    with pytest.raises(grpc.RpcError) as error:
        agent.vms.SendKey(vm_pb2.SendKeyRequest(vm_id=VM, keys="any"))
    assert from_rpc_error(error.value).reason == "UNKNOWN_KEY"


def test_no_console_without_its_vm(agent: Agent) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(agent.vms.Console(iter([vm_pb2.ConsoleInput(vm_id=VM)]), timeout=10))
    assert isinstance(from_rpc_error(caught.value), NotFoundError)


def test_a_console_needs_a_first_word(agent: Agent) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(agent.vms.Console(iter([]), timeout=10))
    assert from_rpc_error(caught.value).reason == "REQUEST_MISSING"


def test_an_answer_that_a_vm_has_ended_is_newer_than_what_was_reported_before_it(agent: Agent) -> None:
    info = agent.driver.add(VM)
    watch = agent.host.WatchHost(host_pb2.WatchHostRequest(load_interval_ms=60_000), timeout=30)
    reports = [next(watch).snapshot.vms[0].look]
    (listener,) = agent.driver.listeners
    listener.vm_event(VmEvent(VmEventKind.RESUMED, info, "", datetime.now(UTC)))
    reports.append(next(watch).vm_event.vm.look)
    # Read before the stop, and heard after it.
    late = VmEvent(VmEventKind.RESUMED, info, "", datetime.now(UTC))
    stopped = last(agent.vms.StopVm(vm_pb2.StopVmRequest(operation=operation(), vm_id=VM)))
    listener.vm_event(late)
    reports.append(next(watch).vm_event.vm.look)
    asked = agent.vms.GetVm(vm_pb2.GetVmRequest(vm_id=VM)).look
    listener.vm_event(VmEvent(VmEventKind.STARTED, info, "", datetime.now(UTC)))
    later = next(watch).vm_event.vm.look
    looks = [*reports, stopped.vm.look, asked, later]
    numbers = [look.number for look in looks]
    assert numbers == sorted(set(numbers))
    assert len({look.life for look in looks}) == 1
    assert looks[0].life > 0
    watch.cancel()


def test_a_host_whose_hypervisor_hangs_is_heard_and_tells_of_its_vms_later(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt lists no VM while it ends one whose storage hangs, which takes it 40 s."""
    watch = agent.host.WatchHost(host_pb2.WatchHostRequest(load_interval_ms=500), timeout=60)
    assert next(watch).snapshot.host.host_id == HOST
    (listener,) = agent.driver.listeners
    answers, asked = threading.Event(), Counter[str]()

    def hang(what: str) -> list[Any]:
        asked[what] += 1
        assert answers.wait(60)
        return []

    monkeypatch.setattr(agent.driver, "samples", lambda: hang("samples"))
    monkeypatch.setattr(agent.driver, "vms", lambda: hang("vms"))
    listener.reconnected()
    begin = time.monotonic()
    heard = [next(watch) for _ in range(8)]
    assert {update.WhichOneof("update") for update in heard} == {"load"}
    assert time.monotonic() - begin < 15
    assert asked == {"samples": 1, "vms": 1}
    answers.set()
    kinds = {next(watch).WhichOneof("update") for _ in range(4)}
    assert kinds == {"load", "snapshot"}
    watch.cancel()


def test_the_looks_of_two_lives_of_an_agent_are_in_no_order() -> None:
    assert Looks().next().life != Looks().next().life


# -- migration


def test_a_vm_leaves(agent: Agent) -> None:
    agent.driver.add(VM)
    request = vm_pb2.MigrateVmRequest(
        operation=operation(),
        vm_id=VM,
        endpoint=job_pb2.MigrationEndpoint(
            hypervisor_uri="qemu+tls://h2/system", migrate_uri="tcp://h2", volume_paths={VOLUME: "/there"}
        ),
        destination_spec=spec(),
    )
    final = last(agent.migration.MigrateVm(request))
    assert (final.state, final.migration_report.downtime_ms) == (State.SUCCEEDED, 20)
    seen = final.migration_report.look
    asked = agent.vms.GetVm(vm_pb2.GetVmRequest(vm_id=VM))
    assert (asked.power_state, seen.life) == (types_pb2.POWER_STATE_ABSENT, asked.look.life)
    assert 0 < seen.number < asked.look.number


@pytest.mark.parametrize(
    ("field_name", "hypervisor_uri", "migrate_uri"),
    [
        ("endpoint.hypervisor_uri", "qemu+ssh://h2/system", "tcp://h2"),
        ("endpoint.hypervisor_uri", "qemu+tcp://h2/system", "tcp://h2"),
        ("endpoint.migrate_uri", "qemu+tls://h2/system", "exec:sh"),
    ],
)
def test_nothing_leaves_in_clear(agent: Agent, field_name: str, hypervisor_uri: str, migrate_uri: str) -> None:
    endpoint = job_pb2.MigrationEndpoint(hypervisor_uri=hypervisor_uri, migrate_uri=migrate_uri)
    request = vm_pb2.MigrateVmRequest(operation=operation(), vm_id=VM, endpoint=endpoint, destination_spec=spec())
    with pytest.raises(grpc.RpcError) as caught:
        last(agent.migration.MigrateVm(request))
    assert from_rpc_error(caught.value).violations[0].field == field_name


def prepare(**changes: object) -> vm_pb2.PrepareMigrationRequest:
    bare = types_pb2.VmSpec(vm_id=VM, name="guest", cpus=1, memory_bytes=128 << 20)
    request = vm_pb2.PrepareMigrationRequest(operation=operation(), spec=bare, source_host_id=OTHER_HOST, timeout_s=5)
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def test_the_source_reaches_the_hypervisor_until_the_migration_is_finished(agent: Agent) -> None:
    assert last(agent.migration.PrepareMigration(prepare())).state == State.SUCCEEDED
    assert (agent.admissions.admits(OTHER_HOST), agent.admissions.admits(HOST)) == (True, False)
    finish = vm_pb2.FinishMigrationRequest(operation=operation(), vm_id=VM, arrived=False)
    assert last(agent.migration.FinishMigration(finish)).state == State.SUCCEEDED
    assert not agent.admissions.admits(OTHER_HOST)


@pytest.mark.parametrize(
    ("field_name", "value"), [("source_host_id", ""), ("source_host_id", "../h1"), ("timeout_s", -1)]
)
def test_a_preparation_names_its_source(agent: Agent, field_name: str, value: object) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        last(agent.migration.PrepareMigration(prepare(**{field_name: value})))
    assert from_rpc_error(caught.value).violations[0].field == field_name


# -- left running by an earlier run of the agent


def recovered_job(root: Path, driver: FakeHypervisor, kind: str, request: Message) -> job_pb2.JobUpdate:
    """The outcome of a job that was running when the agent died."""
    jobs = Jobs(root / "jobs")
    isos = Isos(lambda source, offset: iter([]), root / "isos")
    VmService(jobs, driver, lambda ref: root / ref.volume_id, lambda _: None, isos)
    admissions = Admissions(root / "admissions")
    paths = lambda ref: root / ref.volume_id  # noqa: E731
    incoming = IncomingMigrations(driver, NoVolumes(), paths, "10.0.0.2", "h2.qemu", admissions, isos)
    MigrationService(jobs, driver, incoming)
    Journal(root / "jobs").save(Record.begin("op", 1, kind, digest(request), request))
    jobs.recover()
    return last(jobs.watch("op"))


def outcome(update: job_pb2.JobUpdate) -> str:
    if update.state == State.SUCCEEDED:
        return "SUCCEEDED"
    error: OstlerError = from_status(update.error)
    return error.reason


def _attach() -> vm_pb2.AttachVolumeRequest:
    return vm_pb2.AttachVolumeRequest(vm_id=VM, disk=spec().disks[0])


def _resize(cpus: int, mib: int) -> vm_pb2.ResizeVmRequest:
    return vm_pb2.ResizeVmRequest(vm_id=VM, cpus=cpus, memory_bytes=mib << 20)


@pytest.mark.parametrize(
    ("kind", "request_of", "state", "expected"),
    [
        ("vm.start", lambda: vm_pb2.StartVmRequest(spec=spec()), PowerState.RUNNING, "SUCCEEDED"),
        ("vm.start", lambda: vm_pb2.StartVmRequest(spec=spec()), PowerState.STOPPED, "INTERRUPTED"),
        ("vm.stop", lambda: vm_pb2.StopVmRequest(vm_id=VM), PowerState.STOPPED, "SUCCEEDED"),
        ("vm.stop", lambda: vm_pb2.StopVmRequest(vm_id=VM), PowerState.RUNNING, "INTERRUPTED"),
        ("vm.delete", lambda: vm_pb2.DeleteVmRequest(vm_id=VM), None, "SUCCEEDED"),
        ("vm.delete", lambda: vm_pb2.DeleteVmRequest(vm_id=VM), PowerState.STOPPED, "INTERRUPTED"),
        ("vm.define", lambda: vm_pb2.DefineVmRequest(spec=spec()), PowerState.STOPPED, "INTERRUPTED"),
        ("vm.resize", lambda: _resize(1, 128), PowerState.RUNNING, "SUCCEEDED"),
        ("vm.resize", lambda: _resize(2, 128), PowerState.RUNNING, "INTERRUPTED"),
        ("vm.attach", _attach, PowerState.RUNNING, "INTERRUPTED"),
        ("vm.detach", lambda: vm_pb2.DetachVolumeRequest(vm_id=VM, volume_id=VOLUME), PowerState.RUNNING, "SUCCEEDED"),
    ],
)
def test_the_true_outcome(
    tmp_path: Path, kind: str, request_of: Callable[[], Message], state: PowerState | None, expected: str
) -> None:
    driver = FakeHypervisor()
    if state:
        driver.add(VM, state)
    assert outcome(recovered_job(tmp_path, driver, kind, request_of())) == expected


def test_the_true_outcome_where_the_disk_is_there(tmp_path: Path) -> None:
    driver = FakeHypervisor()
    driver.known[VM] = replace(driver.add(VM), volume_ids=(VOLUME,))
    assert outcome(recovered_job(tmp_path, driver, "vm.attach", _attach())) == "SUCCEEDED"
    detach = vm_pb2.DetachVolumeRequest(vm_id=VM, volume_id=VOLUME)
    assert outcome(recovered_job(tmp_path, driver, "vm.detach", detach)) == "INTERRUPTED"


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        (MigrationOutcome.MOVED, "SUCCEEDED"),
        (MigrationOutcome.RUNNING_HERE, "MIGRATION_FAILED"),
        (MigrationOutcome.STOPPED_HERE, "VM_STOPPED"),
    ],
)
def test_the_true_outcome_of_a_move(tmp_path: Path, moved: MigrationOutcome, expected: str) -> None:
    driver = FakeHypervisor()
    driver.outcome = moved
    assert outcome(recovered_job(tmp_path, driver, "migration.move", vm_pb2.MigrateVmRequest(vm_id=VM))) == expected


def test_a_preparation_that_was_cut_short_is_undone(tmp_path: Path) -> None:
    request = vm_pb2.PrepareMigrationRequest(spec=spec())
    Admissions(tmp_path / "admissions").admit(VM, Source(OTHER_HOST, 60))
    assert outcome(recovered_job(tmp_path, FakeHypervisor(), "migration.prepare", request)) == "INTERRUPTED"
    assert not Admissions(tmp_path / "admissions").admits(OTHER_HOST)


def test_what_firmware_keeps_is_read_compressed(agent: Agent) -> None:
    read = vm_pb2.ReadFirmwareStateRequest(vm_id=VM)
    assert agent.vms.ReadFirmwareState(read).tpm == b""
    agent.driver.firmware[VM] = FirmwareState(b"v" * 100_000, b"sealed")
    found = agent.vms.ReadFirmwareState(read)
    assert (zlib.decompress(found.variables), found.tpm) == (b"v" * 100_000, b"sealed")
    assert len(found.variables) < 1000


def test_a_guest_agent_is_asked(agent: Agent) -> None:
    agent.driver.add(VM)
    with pytest.raises(grpc.RpcError) as error:
        agent.vms.ReadGuestInfo(vm_pb2.ReadGuestInfoRequest(vm_id=VM))
    assert from_rpc_error(error.value).reason == "GUEST_AGENT_MISSING"
    users = tuple(GuestUser(f"\x1b[{n}m", "", 10**18) for n in range(100))
    agent.driver.guest = GuestInfo(host_name="web", users=users)
    told = agent.vms.ReadGuestInfo(vm_pb2.ReadGuestInfoRequest(vm_id=VM))
    assert (told.host_name, len(told.users), told.users[7].name) == ("web", MAX_ITEMS, "\\x1b[7m")
    assert told.host_time.seconds > 1_600_000_000
    agent.vms.SyncGuestTime(vm_pb2.SyncGuestTimeRequest(vm_id=VM))
    agent.vms.SetGuestPassword(vm_pb2.SetGuestPasswordRequest(vm_id=VM, guest_user="root", password=b"horse"))
    login = f"ssh-ed25519 {'A' * 68}"
    keys = vm_pb2.SetGuestSshKeysRequest(vm_id=VM, guest_user="root", ssh_keys=[login], keep_others=True)
    agent.vms.SetGuestSshKeys(keys)
    asked = ["guest_info", "set_guest_time", "set_guest_password root Secret(***)", "set_guest_ssh_keys root 1 True"]
    assert agent.driver.done == asked
    keys.ssh_keys.append("no key")
    with pytest.raises(grpc.RpcError) as error:
        agent.vms.SetGuestSshKeys(keys)
    assert from_rpc_error(error.value).reason == "INVALID_SSH_KEY"
    with pytest.raises(grpc.RpcError) as error:
        agent.vms.SetGuestPassword(vm_pb2.SetGuestPasswordRequest(vm_id=VM, guest_user="a:b", password=b"horse"))
    assert from_rpc_error(error.value).reason == "INVALID_GUEST_USER"


@pytest.mark.parametrize("connected", [True, False])
def test_a_stop_asks_the_guest_agent_or_else_presses_the_power_button(agent: Agent, connected: bool) -> None:
    agent.driver.add(VM)
    agent.driver.guest = GuestInfo() if connected else None
    how = guest.shut_down(agent.driver, VM)
    assert agent.driver.done == (["shut_down_guest"] if connected else ["shut_down"])
    if connected:
        assert how == "its guest agent was asked"
    else:
        assert how == "its power button was pressed; no guest agent is connected"
