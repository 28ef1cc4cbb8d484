"""What clients ask of a fleet, and how long the answers take."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from google.longrunning import operations_pb2
from ostler.client import Profile
from ostler.client.client import Client
from ostler.control.v1 import vm_pb2
from ostler_common.errors import OstlerError
from ostler_control import database
from ostler_control.models import Host, Operation, Vm, VmState, now
from ostler_control.scheduling import capacity
from peewee import fn

from tests.bench.fleet.site import OFFERING, TEMPLATE, Replica, Site

# A caller may have as many calls at once; half of the workers.
CALLERS = 32
_WAIT_S = 600.0


@dataclass(frozen=True)
class Creates:
    """refused: calls without an operation, by reason; failed: operations that did not succeed, by reason; lost: VMs of
    operations that succeeded and that do not run; overfull: hosts with more than they have, or wrong sums."""

    per_s: float
    acknowledged_per_s: float
    slowest_answer_s: float
    cpu_ms: float
    max_threads: int
    refused: list[str]
    failed: list[str]
    lost: int
    overfull: int


@dataclass(frozen=True)
class Listing:
    """Times of pages of a list of VMs, and of all pages one after the other."""

    p50_ms: float
    p99_ms: float
    all_s: float
    count: int


def create(site: Site, replicas: Sequence[Replica], profiles: Sequence[Profile], count: int, prefix: str) -> Creates:
    """Creates so many VMs, as fast as `CALLERS` callers get answers, and waits until the last operation has ended. The
    rate is that until its end."""
    clients = [Client(profile) for profile in profiles]
    slowest, refused, failed = [0.0], list[str](), list[str]()

    def one(number: int) -> operations_pb2.Operation | None:
        request = vm_pb2.CreateVmRequest(name=f"{prefix}{number}", template=TEMPLATE, service_offering=OFFERING)
        begin = time.monotonic()
        try:
            return clients[number % len(clients)].vms.CreateVm(request)
        except OstlerError as error:
            refused.append(f"{error.code} {error.reason}")
            return None
        finally:
            slowest.append(time.monotonic() - begin)

    before_s = sum(replica.use.cpu_s for replica in replicas)
    with _sampled(lambda: max(replica.use.threads for replica in replicas)) as threads:
        begin, begin_time = time.monotonic(), now()
        with ThreadPoolExecutor(CALLERS) as callers:
            operations = list(callers.map(one, range(count)))
        acknowledged_s = time.monotonic() - begin
        for operation in filter(None, operations):
            try:
                clients[0].wait(operation, vm_pb2.Vm, timeout_s=_WAIT_S)
            except OstlerError as error:
                failed.append(f"{error.code} {error.reason}")
    used_s = sum(replica.use.cpu_s for replica in replicas) - before_s
    for client in clients:
        client.close()
    ran = count - len(refused) - len(failed)
    ids = [operation.name.rpartition("/")[2] for operation in operations if operation]
    with database.session():
        # Not when the waits are over: they ask for one operation after the other, of which most have ended by then.
        end_time = Operation.select(fn.MAX(Operation.end_time)).where(Operation.id.in_(ids)).scalar() or now()
        running = Vm.select().where(Vm.name.startswith(prefix), Vm.state == VmState.RUNNING).count()
        full = (Host.allocated_cpus > Host.cpus) | (Host.allocated_memory_bytes > Host.memory_bytes)
        overfull = Host.select().where(full).count() + len(capacity.audit())
    return Creates(
        ran / (end_time - begin_time).total_seconds(),
        (count - len(refused)) / acknowledged_s,
        max(slowest),
        used_s / count * 1000,
        max(threads),
        refused,
        failed,
        max(ran - running, 0),  # one whose answer was lost may run as well
        overfull,
    )


def list_vms(profile: Profile, page_size: int, passes: int) -> Listing:
    """Reads all VMs page by page, several times, after a first time that opens the connection."""
    times: list[float] = []
    walks: list[float] = []
    count = 0
    with Client(profile) as client:
        client.vms.ListVms(vm_pb2.ListVmsRequest(page_size=page_size))
        for _ in range(passes):
            request, count, begun = vm_pb2.ListVmsRequest(page_size=page_size), 0, time.monotonic()
            while request.page_token or not count:
                last = time.monotonic()
                page = client.vms.ListVms(request)
                times.append(time.monotonic() - last)
                count += len(page.vms)
                request.page_token = page.next_page_token
                if not page.next_page_token:
                    break
            walks.append(time.monotonic() - begun)
    times.sort()
    p99 = times[min(round(0.99 * len(times)), len(times) - 1)]
    return Listing(statistics.median(times) * 1000, p99 * 1000, statistics.median(walks), count)


@contextlib.contextmanager
def _sampled(measure: Callable[[], int], interval_s: float = 0.2) -> Iterator[list[int]]:
    """What `measure` says now, at the end, and every so often between."""
    samples, done = [measure()], threading.Event()

    def sample() -> None:
        while not done.wait(interval_s):
            samples.append(measure())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        samples.append(measure())
