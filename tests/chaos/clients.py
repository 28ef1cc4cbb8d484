"""Clients: random calls, each recorded with its answer."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.longrunning import operations_pb2 as lro
from ostler.client import connect
from ostler.client.client import Client
from ostler.client.operations import bare_id, raise_for_error, wait
from ostler.control.v1 import snapshot_pb2, vm_pb2, volume_pb2
from ostler_common.errors import OstlerError

from tests.chaos.history import ABSENT, Call, Outcome

MIB = 1 << 20
NAMES = 3  # of each kind, for each client
SHARED = 0.2  # share of the calls that are about names of all clients
NONSENSE = 0.1  # share of the calls that need not suit what is there
CALL_S, WAIT_S, ATTEMPTS = 15.0, 90.0, 4
# After these nobody knows whether it was done.
UNCERTAIN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN"})
# The operation ended, and its host may have done it all the same.
UNREACHABLE = frozenset({"HOST_UNREACHABLE"})


@dataclass(frozen=True)
class Wish:
    """A call to make. begin: starts the operation of a request id."""

    verb: str
    object: str
    effect: str
    begin: Callable[[Client, str], lro.Operation]


def wish(dice: random.Random, client: int) -> Wish:
    """A random one."""
    owner = "s" if dice.random() < SHARED else f"c{client}"
    vm, volume, snapshot = (f"{owner}-{kind}{dice.randrange(NAMES)}" for kind in ("vm", "data", "snap"))
    stopped, host = dice.random() < 0.3, dice.choice(("h1", "h2"))

    def create_vm(c: Client, r: str) -> lro.Operation:
        wanted = vm_pb2.CreateVmRequest(
            request_id=r, name=vm, template="tiny", service_offering="encrypted", stopped=stopped
        )
        return c.vms.CreateVm(wanted, timeout=CALL_S)

    def create_volume(c: Client, r: str) -> lro.Operation:
        wanted = volume_pb2.CreateVolumeRequest(
            request_id=r, name=volume, disk_offering="encrypted", size_bytes=16 * MIB, pool="shared"
        )
        return c.volumes.CreateVolume(wanted, timeout=CALL_S)

    def start(c: Client, r: str) -> lro.Operation:
        return c.vms.StartVm(vm_pb2.StartVmRequest(request_id=r, vm=vm), timeout=CALL_S)

    def stop(c: Client, r: str) -> lro.Operation:
        return c.vms.StopVm(vm_pb2.StopVmRequest(request_id=r, vm=vm, force=True), timeout=CALL_S)

    def delete_vm(c: Client, r: str) -> lro.Operation:
        return c.vms.DeleteVm(vm_pb2.DeleteVmRequest(request_id=r, vm=vm, force=True), timeout=CALL_S)

    def migrate(c: Client, r: str) -> lro.Operation:
        return c.vms.MigrateVm(vm_pb2.MigrateVmRequest(request_id=r, vm=vm, host=host), timeout=CALL_S)

    def delete_volume(c: Client, r: str) -> lro.Operation:
        return c.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(request_id=r, volume=volume), timeout=CALL_S)

    def create_snapshot(c: Client, r: str) -> lro.Operation:
        wanted = snapshot_pb2.CreateSnapshotRequest(request_id=r, volume=volume, name=snapshot)
        return c.snapshots.CreateSnapshot(wanted, timeout=CALL_S)

    def delete_snapshot(c: Client, r: str) -> lro.Operation:
        wanted = snapshot_pb2.DeleteSnapshotRequest(request_id=r, snapshot=snapshot)
        return c.snapshots.DeleteSnapshot(wanted, timeout=CALL_S)

    vm_state = "stopped" if stopped else "running"
    wishes = (
        (5, Wish("vm.create", f"vm/{vm}", vm_state, create_vm)),
        (2, Wish("vm.start", f"vm/{vm}", "running", start)),
        (2, Wish("vm.stop", f"vm/{vm}", "stopped", stop)),
        (3, Wish("vm.migrate", f"vm/{vm}", "running", migrate)),
        (2, Wish("vm.delete", f"vm/{vm}", ABSENT, delete_vm)),
        (3, Wish("volume.create", f"volume/{volume}", "ready", create_volume)),
        (1, Wish("volume.delete", f"volume/{volume}", ABSENT, delete_volume)),
        (2, Wish("snapshot.create", f"snapshot/{snapshot}", "ready", create_snapshot)),
        (1, Wish("snapshot.delete", f"snapshot/{snapshot}", ABSENT, delete_snapshot)),
    )
    return dice.choices([one for _, one in wishes], [weight for weight, _ in wishes])[0]


# What a call needs its object to be like.
NEEDS = {
    "vm.create": (ABSENT,),
    "vm.start": ("stopped",),
    "vm.stop": ("running",),
    "vm.migrate": ("running",),
    "vm.delete": ("running", "stopped"),
    "volume.create": (ABSENT,),
    "volume.delete": ("ready",),
    "snapshot.create": (ABSENT,),
    "snapshot.delete": ("ready",),
}


def sensible(dice: random.Random, client: int, known: Mapping[str, str]) -> Wish:
    """Most of the time one that suits what the client knows of its objects; else any."""
    for _ in range(0 if dice.random() < NONSENSE else 50):
        one = wish(dice, client)
        if known.get(one.object, ABSENT) in NEEDS[one.verb]:
            return one
    return wish(dice, client)


@dataclass
class Clients:
    """A client for each profile, until `stop`. calls: what they did, and what they were told."""

    profiles: Sequence[Path]
    seed: int
    calls: list[Call] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(len(self.profiles))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Lets them end the calls that they have begun."""
        self._stopping.set()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "a client waits for an answer without end"

    def _work(self, number: int) -> None:
        dice = random.Random(f"{self.seed}/{number}")
        try:
            with connect(self.profiles[number]) as client:
                known: dict[str, str] = {}
                while not self._stopping.is_set():
                    call = make(client, number, sensible(dice, number, known))
                    self.calls.append(call)
                    if call.outcome is Outcome.DONE:
                        known[call.object] = call.effect
        except BaseException as error:
            self.faults.append(error)
            raise


def make(client: Client, number: int, what: Wish) -> Call:
    """Makes a call and waits for its end; repeats it, with its request id, if nobody knows whether it was received."""
    begin, request_id = time.monotonic(), str(uuid.uuid4())

    def ended(outcome: Outcome, reason: str = "") -> Call:
        begun = bare_id(operation.name) if operation is not None else ""
        return Call(number, what.verb, what.object, begin, time.monotonic(), outcome, what.effect, reason, begun)

    operation = None
    for attempt in range(ATTEMPTS):
        try:
            operation = what.begin(client, request_id)
            break
        except OstlerError as error:
            if error.code not in UNCERTAIN:
                # A repeated call may be refused because of what its first attempt did.
                return ended(Outcome.REFUSED if attempt == 0 else Outcome.UNKNOWN, error.reason)
            reason = error.reason
            time.sleep(0.5)
    if operation is None:
        return ended(Outcome.UNKNOWN, reason)
    try:
        raise_for_error(wait(client.operations, operation, WAIT_S))
    except OstlerError as error:
        uncertain = error.code in UNCERTAIN or error.reason in UNREACHABLE
        return ended(Outcome.UNKNOWN if uncertain else Outcome.FAILED, error.reason)
    return ended(Outcome.DONE)
