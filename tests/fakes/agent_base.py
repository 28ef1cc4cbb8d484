"""What all parts of an agent in memory share: its state, its jobs and their faults."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from ostler.agent.v1 import (
    adoption_pb2,
)
from ostler.types.v1 import guest_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_agent.jobs import JobContext
from ostler_common.errors import UnavailableError

from tests.fakes.faults import Errors, Fault
from tests.fakes.guard import FakeGuard
from tests.fakes.jobs_of_life import while_alive
from tests.fakes.life import Life
from tests.fakes.machines import FakeTpm, Machine
from tests.fakes.watched_host import WatchedHost

if TYPE_CHECKING:
    from tests.fakes.working_agent import Fleet


# What a hypervisor's daemon may do, and then end before it says so.
_DONE_UNHEARD = frozenset({"vm.start", "vm.stop", "vm.define", "vm.delete"})


def no_daemon() -> UnavailableError:
    """What an agent answers that cannot ask its hypervisor."""
    return UnavailableError("the connection was reset (is libvirtd running?)", "LIBVIRT_UNAVAILABLE")


class AgentBase:
    """calls: every method called, in order."""

    def __init__(self, fleet: Fleet, name: str, host_id: str) -> None:
        self.seeds: dict[str, dict[str, bytes]] = {}  # by VM
        self.admitted: dict[str, str] = {}  # VM that migrates here -> its source host
        self.fleet = fleet
        self.name = name
        self.host_id = host_id
        self.pools: set[str] = set()
        self.vms: dict[str, Machine] = {}
        self.pressed: list[str] = []  # combinations of keys
        self.old = False  # of a release that makes only full copies
        self.consistency: tuple[types_volume_pb2.Consistency.ValueType, str] | None = None  # of online copies
        self.guest: guest_pb2.GuestInfo | None = None  # none: no guest agent is connected
        self.asked_guests: list[str] = []  # what guest agents were asked to do
        self.screen: Path | None = None  # the Unix socket of a VNC server
        self.secrets: set[str] = set()
        self.tpms: dict[str, FakeTpm] = {}
        self.mirrors: dict[str, str] = {}
        self.web: dict[str, tuple[int, bytes]] = {}
        self.faults: dict[str, Fault] = {}
        self.calls: list[str] = []
        self.machine = "pc-q35-7.2"  # the newest machine type that its QEMU has
        self.claims: list[types_vm_pb2.SeenAddress] = []  # addresses that its guests claim
        self.port = 0
        self.foreign: dict[str, adoption_pb2.InspectVmResponse] = {}
        self.marked: set[str] = set()
        self.guard = FakeGuard(host_id, fleet.leases, self.end_vms)
        self.life = Life(fleet.directory / f"jobs-{host_id}")
        self.powered = True
        self.daemon_away = False  # the hypervisor's: nothing is known of VMs, and what is asked of it may be done
        self.watched: WatchedHost | None = None  # who watches it is told what happens here
        self._server: grpc.Server | None = None

    def fail(self, method: str, fault: Fault) -> Fault:
        self.faults[method] = fault
        return fault

    def errors(self, context: grpc.ServicerContext) -> Errors:
        return Errors(context)

    def fail_now(self, method: str) -> None:
        """Raises the error of a fault of a plain call."""
        fault = self.faults.pop(method, None)
        if fault is not None:
            fault.reached.set()
            if fault.hold is not None:
                fault.hold.wait(30)
            if fault.error is not None:
                raise fault.error

    def run_job(self, method: str, kind: str, request: Any, context: grpc.ServicerContext, work: Any) -> Iterator[Any]:
        return self._job(method, kind, request, context, work)

    def _job(self, method: str, kind: str, request: Any, context: grpc.ServicerContext, work: Any) -> Iterator[Any]:
        fault = self.faults.get(method)
        if fault is not None and not fault.only(request):
            fault = None
        if fault is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.faults.pop(method)

        life = self.life.number
        self.life.knows(kind)

        def faulty(job: JobContext) -> Any:
            self.calls.append(method)
            if fault is not None and fault.forget_key:
                made = request.target if hasattr(request, "target") else request.volume
                made.ClearField("key")
            if fault is None:
                self.fleet.pace()
                with self.fleet.lock:
                    if self.daemon_away and kind.startswith(("vm.", "migration.")):
                        if kind in _DONE_UNHEARD and random.random() < 0.5:
                            self.life.do(life, job, work, kind)
                        raise no_daemon()
                    result = self.life.do(life, job, work, kind)
                self.fleet.pace()
                return result
            fault.reached.set()
            while fault.hold is not None and not fault.hold.wait(0.01):
                job.check()
            if fault.error is not None and fault.before:
                raise fault.error
            with self.fleet.lock:
                result = work(job)
            if fault.error is not None:
                raise fault.error
            return result

        with Errors(context):
            updates = self.life.jobs.run(request.operation, kind, request, faulty)
            for update in while_alive(self.life, life, updates, context):
                if fault is not None and fault.cut:
                    fault.reached.wait(10)
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke (a fault)")
                yield update

    def end_vms(self) -> None:
        """Every VM ends at once."""
        for machine in self.vms.values():
            machine.running = False
        self.secrets.clear()
