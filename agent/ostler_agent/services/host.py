"""HostService."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import grpc
from ostler.agent.v1 import host_pb2, host_pb2_grpc
from ostler.types.v1 import host_pb2 as types_pb2
from ostler.types.v1 import vm_pb2 as vm_types_pb2
from ostler_common.address import split_address, split_addresses
from ostler_common.errors import UnavailableError, bad_field

from ostler_agent.bounded import BoundedCalls
from ostler_agent.capabilities import Capabilities
from ostler_agent.guardian.guards import Guard
from ostler_agent.guardian.lease import Lease
from ostler_agent.host_load import LoadMeter
from ostler_agent.hypervisors.base import Hypervisor, VmEvent
from ostler_agent.looks import LOOKS
from ostler_agent.services import convert
from ostler_agent.services.host_convert import (
    capabilities_message,
    event_message,
    guard_message,
    load_message,
    timestamp,
)

DEFAULT_INTERVAL_MS = 5000
MIN_INTERVAL_MS = 500
MAX_BACKLOG = 10_000
MAX_CONTROL_ADDRESSES = 16
MAX_STAMP = 100
# The control plane takes a host for silent that has sent nothing for 20 s.
_ANSWER_S = 2.0


class CapabilitySource(Protocol):
    """The part of `capabilities.Prober` that the service uses."""

    def current(self) -> Capabilities: ...
    def probe(self) -> Capabilities: ...
    def subscribe(self, listener: Callable[[Capabilities], None]) -> Callable[[], None]: ...


class Trust(Protocol):
    """The part of `renewal.CredentialsManager` that the service uses."""

    def update(self, ca_pem: bytes, crl_pem: bytes, control_address: str = "") -> None: ...


class GuardSource(Protocol):
    """The part of `guardian.guards.Guards` that the service uses."""

    def keep(self, pool_id: str, stamp: str) -> Guard: ...
    def read(self, pool_id: str, host_id: str) -> Lease: ...


@dataclass(frozen=True)
class HostIdentity:
    """A host's identity. certificate_expire_time: a function, because renewal changes it."""

    host_id: str
    version: str
    certificate_expire_time: Callable[[], datetime]
    start_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    proc: Path = Path("/proc")


class HostService(host_pb2_grpc.HostServiceServicer):
    def __init__(
        self,
        driver: Hypervisor,
        capabilities: CapabilitySource,
        trust: Trust,
        identity: HostIdentity,
        guards: GuardSource,
    ) -> None:
        self._guards = guards
        self._driver = driver
        self._capabilities = capabilities
        self._trust = trust
        self._identity = identity
        self._calls = BoundedCalls("hypervisor")

    def GetHost(self, request: host_pb2.GetHostRequest, context: grpc.ServicerContext) -> host_pb2.Host:
        return self._host()

    def ProbeCapabilities(
        self, request: host_pb2.ProbeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> types_pb2.Capabilities:
        return capabilities_message(self._capabilities.probe())

    def UpdateTrust(
        self, request: host_pb2.UpdateTrustRequest, context: grpc.ServicerContext
    ) -> host_pb2.UpdateTrustResponse:
        addresses = split_addresses(request.control_address)
        if len(addresses) > MAX_CONTROL_ADDRESSES:
            raise bad_field("control_address", f"must be at most {MAX_CONTROL_ADDRESSES} addresses")
        for address in addresses:
            split_address(address, "control_address")
        self._trust.update(request.ca_pem, request.crl_pem, request.control_address)
        return host_pb2.UpdateTrustResponse()

    def KeepGuard(self, request: host_pb2.KeepGuardRequest, context: grpc.ServicerContext) -> host_pb2.Guard:
        if len(request.stamp) > MAX_STAMP:
            raise bad_field("stamp", f"must be at most {MAX_STAMP} characters")
        pool_id = convert.uuid_field(request.pool_id, "pool_id") if request.pool_id else ""
        return guard_message(self._guards.keep(pool_id, request.stamp))

    def ReadLease(self, request: host_pb2.ReadLeaseRequest, context: grpc.ServicerContext) -> host_pb2.Lease:
        pool_id = convert.uuid_field(request.pool_id, "pool_id")
        found = self._guards.read(pool_id, convert.uuid_field(request.host_id, "host_id"))
        return host_pb2.Lease(term=found.term, number=found.number, released=found.released)

    def WatchHost(
        self, request: host_pb2.WatchHostRequest, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.HostUpdate]:
        if request.load_interval_ms < 0:
            raise bad_field("load_interval_ms", "must not be negative")
        interval_s = max(MIN_INTERVAL_MS, request.load_interval_ms or DEFAULT_INTERVAL_MS) / 1000
        watch = _Watch()
        if not context.add_callback(watch.end):
            return
        with ExitStack() as stack:
            # Subscribe before the snapshot, so that no event is lost; an event may repeat what the snapshot says.
            stack.callback(self._driver.subscribe(watch))
            stack.callback(self._capabilities.subscribe(watch.capabilities_changed))
            yield from self._updates(watch, LoadMeter(self._identity.proc), interval_s)

    def _updates(self, watch: _Watch, meter: LoadMeter, interval_s: float) -> Iterator[host_pb2.HostUpdate]:
        yield host_pb2.HostUpdate(snapshot=self._snapshot())
        due = time.monotonic() + interval_s
        owed = False
        while not watch.ended:
            update = watch.next(max(0.0, due - time.monotonic()))
            if update is _SNAPSHOT:
                owed = True
            elif isinstance(update, host_pb2.HostUpdate):
                yield update
            elif time.monotonic() >= due and not watch.ended:
                due = time.monotonic() + interval_s
                yield host_pb2.HostUpdate(load=self._load(meter))
            if owed and not watch.ended:
                with suppress(TimeoutError):
                    snapshot = self._calls.call("snapshot", self._snapshot, _ANSWER_S)
                    owed = False
                    yield host_pb2.HostUpdate(snapshot=snapshot)

    def _snapshot(self) -> host_pb2.HostSnapshot:
        vms = self._driver.vms()
        look = LOOKS.next()
        return host_pb2.HostSnapshot(host=self._host(), vms=[convert.vm_info(vm, look) for vm in vms])

    def _load(self, meter: LoadMeter) -> vm_types_pb2.HostLoad:
        """Of the host alone while its hypervisor does not answer. libvirt lists nothing while it ends a VM whose
        storage hangs; the host must not be taken for silent meanwhile."""
        try:
            samples = self._calls.call("samples", self._driver.samples, _ANSWER_S)
        except (UnavailableError, TimeoutError):
            samples = []
        return load_message(meter.measure(samples))

    def _host(self) -> host_pb2.Host:
        return host_pb2.Host(
            host_id=self._identity.host_id,
            hostname=socket.gethostname(),
            agent_version=self._identity.version,
            boot_id=(self._identity.proc / "sys/kernel/random/boot_id").read_text().strip(),
            agent_start_time=timestamp(self._identity.start_time),
            capabilities=capabilities_message(self._capabilities.current()),
            certificate_expire_time=timestamp(self._identity.certificate_expire_time()),
        )


_SNAPSHOT = "snapshot"
_END = "end"


class _Watch:
    """The pending updates of one watcher. A watcher that is too slow gets a snapshot instead of its backlog."""

    def __init__(self) -> None:
        self.ended = False
        self._updates: queue.Queue[host_pb2.HostUpdate | str] = queue.Queue()

    def vm_event(self, event: VmEvent) -> None:
        self._put(host_pb2.HostUpdate(vm_event=event_message(event)))

    def reconnected(self) -> None:
        self._put(_SNAPSHOT)

    def capabilities_changed(self, capabilities: Capabilities) -> None:
        self._put(host_pb2.HostUpdate(capabilities=capabilities_message(capabilities)))

    def end(self) -> None:
        self.ended = True
        self._updates.put(_END)

    def next(self, timeout_s: float) -> host_pb2.HostUpdate | str | None:
        """Returns the next update; None at the timeout."""
        try:
            return self._updates.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _put(self, update: host_pb2.HostUpdate | str) -> None:
        if self._updates.qsize() < MAX_BACKLOG:
            self._updates.put(update)
            return
        self._updates = queue.Queue()
        self._updates.put(_SNAPSHOT)
