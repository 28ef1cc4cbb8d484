"""Watches every host of the fleet: one asyncio loop in one thread, one stream per host.

The loop holds what hosts report (`Watch`); a worker thread records it. Only the watcher waits for the database, and
nothing here starts, stops or moves a VM. Definitions that a silent host has kept are given to `leftovers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import grpc
import structlog
from ostler.agent.v1 import host_pb2, host_pb2_grpc
from ostler.types.v1 import host_pb2 as types_host_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.channel import host_server_name, open_aio_channel
from ostler_common.errors import OstlerError, from_rpc_error
from ostler_common.tls import TlsFiles

from ostler_control.agents import reports
from ostler_control.fleet import backoff, store
from ostler_control.fleet.comparison import Comparison
from ostler_control.fleet.contact import cause, ensure_pool, push_trust
from ostler_control.fleet.loads import Loads
from ostler_control.fleet.watch import Watch, is_there, seen
from ostler_control.hosts import loads as host_loads
from ostler_control.keys import Keyring
from ostler_control.models import HostState
from ostler_control.operations.starts import is_starting
from ostler_control.outage import DATABASE_ERRORS, outage
from ostler_control.pools import reach
from ostler_control.trust.revocation import TrustBundle

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_MIN_RETRY_S, _MAX_RETRY_S = 0.5, 15.0
_FIRST_UPDATE_TIMEOUT_S = 20.0
# How long reports gather until they are compared with rows: at least, at most, and for how many times as long as the
# comparison before took. On a busy machine more of them share one, so that comparing does not add to the load.
_MIN_GATHER_S, _MAX_GATHER_S, _GATHER_FACTOR = 0.1, 1.0, 5.0
# How soon a replica notices that it leads now.
_MAX_LEADERLESS_S = 1.0
# In how many parts all VMs are compared, and loads recorded: all at once, those of a large fleet would hold up calls.
_PARTS = 10


@dataclass(frozen=True)
class Intervals:
    """How often the watcher does what, seconds.

    rescan: look for hosts that joined, left or have a new address; sweep: compare all VMs with their rows;
    pools: measure pools; grace: how long a host may be unreachable before it counts as silent.
    """

    rescan_s: float = 5.0
    sweep_s: float = 10.0
    pools_s: float = 60.0
    grace_s: float = 10.0


class _SilenceError(Exception):
    """The host sends nothing more."""


class Watcher:
    """Start it once; call `rescan` whenever hosts or what they trust have changed."""

    def __init__(
        self,
        tls: TlsFiles,
        trust: Callable[[], TrustBundle],
        keys: Keyring,
        leads: Callable[[], bool] = lambda: True,
        intervals: Intervals | None = None,
        connect: Callable[[str, TlsFiles, str], grpc.aio.Channel] = open_aio_channel,
    ) -> None:
        """trust: what hosts are to trust now (reads the database); leads: whether this replica is the one to watch."""
        self._tls = tls
        self._trust = trust
        self._keys = keys
        self._leads = leads
        self._intervals = intervals or Intervals()
        self._connect = connect
        self._watches: dict[str, Watch] = {}
        # What was heard since the last flush, and what is kept of it (in the worker thread).
        self._loads: dict[str, vm_pb2.HostLoad] = {}
        self._kept_loads = Loads()
        self._dirty: set[str] = set()
        self._bundle: TrustBundle | None = None
        self._interval_s = 5
        self._gather_s = _MIN_GATHER_S
        self._comparison = Comparison()
        self._database = ThreadPoolExecutor(1, thread_name_prefix="watcher-db")
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._started = threading.Event()

    def start(self) -> None:
        """Starts watching, in a thread of its own."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="watcher", daemon=True)
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        """Ends all streams. What is recorded of the hosts stays as it is."""
        if self._loop is not None and self._main is not None:
            with contextlib.suppress(RuntimeError):  # the loop is over already
                self._loop.call_soon_threadsafe(self._main.cancel)
        if self._thread is not None:
            self._thread.join()
        self._database.shutdown()

    def rescan(self) -> None:
        """Reads hosts, addresses and revocations again now. From any thread; returns at once."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._rescan_now.set)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        self._rescan_now, self._dirty_now = asyncio.Event(), asyncio.Event()
        self._pace = backoff.Pace()
        self._started.set()
        try:
            async with asyncio.TaskGroup() as group:
                for forever in (self._rescan, self._reconcile, self._sweep, self._flush_loads):
                    group.create_task(self._forever(forever))
        except asyncio.CancelledError:
            pass
        finally:
            await self._let_go(list(self._watches))

    async def _forever(self, step: Callable[[], Coroutine[None, None, None]]) -> None:
        while True:
            try:
                await step()
            except Exception:
                log.exception("a step of the watcher failed by a bug; it is tried again", step=step.__name__)
                await asyncio.sleep(1)

    async def _in_database(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `call` in the worker thread, again and again while the database is away."""
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._database, partial(call, *args, **kwargs))
            except DATABASE_ERRORS as error:
                log.error("the database cannot be used, trying again", error=str(outage(error) or error))
                await asyncio.sleep(1)

    # The fleet's hosts.

    async def _rescan(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._intervals.rescan_s if self._watches or self._bundle else 0):
                await self._rescan_now.wait()
        self._rescan_now.clear()
        if not await self._in_database(self._leads):
            await self._let_go(list(self._watches))
            self._bundle = None
            await asyncio.sleep(min(self._intervals.rescan_s, _MAX_LEADERLESS_S))
            return
        self._interval_s = await self._in_database(store.load_interval_s)
        set_counts = {host_id: watch.set_count for host_id, watch in self._watches.items()}
        hosts = await self._in_database(store.hosts)
        await self._let_go([i for i, watch in self._watches.items() if i not in hosts])
        for host_id, host in hosts.items():
            watch = self._watches.get(host_id)
            if watch is not None and watch.task is not None and watch.task.done():
                bug = watch.task.exception()
                log.error("the watch over a host ended by a bug; it begins anew", host=host.name, exc_info=bug)
                await self._let_go([host_id])
                watch = None
            elif watch is not None and watch.host.address != host.address:
                await self._let_go([host_id])
                watch = None
            if watch is None:
                self._watches[host_id] = watch = Watch(host)
                watch.task = asyncio.create_task(self._watch(watch), name=f"watch {host.name}")
            elif watch.state is not host.state and watch.set_count == set_counts.get(host_id):
                # Somebody else changed the row; it was not read while a change of ours was on its way to it.
                if host.state is HostState.CONNECTING and not watch.heard:  # it has rejoined
                    watch.state = HostState.CONNECTING
                    watch.try_now.set()
                else:
                    await self._in_database(store.set_state, host, watch.state, watch.reason)
            if watch.host != host:
                watch.host = host
                watch.changed()
        await self._renew_trust()

    async def _let_go(self, host_ids: list[str]) -> None:
        if not host_ids:
            return
        watches = [self._watches.pop(host_id) for host_id in host_ids]
        tasks = [watch.task for watch in watches if watch.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._comparison.forget(host_ids)
        for host_id in host_ids:
            self._loads.pop(host_id, None)
        await self._in_database(self._forget_loads, host_ids)

    # One host.

    async def _watch(self, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        failures, last_word = 0, loop.time()
        while True:
            await self._pace.turn()
            try:
                async with self._stream(watch) as updates:
                    async for update in updates:
                        failures, last_word = 0, loop.time()
                        await self._on(watch, update)
                reason = "its agent ended the stream"
            except grpc.aio.AioRpcError as error:
                reason = cause(from_rpc_error(error).message)
            except _SilenceError as error:
                reason = str(error)
            except Exception as error:
                log.exception("watching a host failed by a bug", host=watch.host.name)
                reason = f"{type(error).__name__}: {error}"
            failures += 1
            watch.heard = False
            watch.silent = watch.silent or loop.time() - last_word >= self._intervals.grace_s
            await self._set_state(watch, HostState.DISCONNECTED if watch.silent else HostState.CONNECTING, reason)
            self._mark(watch)
            delay_s = backoff.delay_s(failures, min_s=_MIN_RETRY_S, max_s=_MAX_RETRY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await watch.try_now.wait()
            watch.try_now.clear()

    @contextlib.asynccontextmanager
    async def _stream(self, watch: Watch) -> AsyncIterator[AsyncIterator[host_pb2.HostUpdate]]:
        """The host's updates, on a channel made with our certificate of the moment."""
        interval_s = self._interval_s
        request = host_pb2.WatchHostRequest(load_interval_ms=interval_s * 1000)
        contact: asyncio.Task[None] | None = None

        async def updates(
            call: grpc.aio.UnaryStreamCall[host_pb2.WatchHostRequest, host_pb2.HostUpdate],
        ) -> AsyncIterator[host_pb2.HostUpdate]:
            nonlocal contact
            timeout_s = _FIRST_UPDATE_TIMEOUT_S
            while True:
                try:
                    async with asyncio.timeout(timeout_s):
                        update = await call.read()
                except TimeoutError:
                    raise _SilenceError(f"it sent nothing for {timeout_s:g} s") from None
                if not isinstance(update, host_pb2.HostUpdate):  # the end of the stream
                    return
                yield update
                timeout_s = interval_s * 3 + 5
                if contact is None:
                    contact = asyncio.create_task(self._on_contact(watch))

        async with self._connect(watch.host.address, self._tls, host_server_name(watch.host.host_id)) as channel:
            watch.channel = channel
            call = host_pb2_grpc.HostServiceStub(channel).WatchHost(request)
            try:
                yield updates(call)
            finally:
                watch.channel = None
                call.cancel()
                if contact is not None:
                    contact.cancel()
                    await asyncio.gather(contact, return_exceptions=True)

    async def _on(self, watch: Watch, update: host_pb2.HostUpdate) -> None:
        match update.WhichOneof("update"):
            case "snapshot":
                vms, wrong = reports.good_vms(update.snapshot.vms)
                watch.vms = {vm.vm_id: seen(vm) for vm in vms if is_there(vm)}
                watch.complaints["vms"] = reports.complaint(wrong) if wrong else ""
                watch.heard, watch.silent = True, False
                host = update.snapshot.host
                await self._set_facts(watch, host.agent_version, host.capabilities)
                self._mark(watch)
            case "capabilities":
                await self._set_facts(watch, "", update.capabilities)
            case "load":
                wrong = reports.find_wrong_load(update.load)
                if not wrong:
                    self._loads[watch.host.host_id] = update.load
                await self._complain(watch, "load", reports.complaint(wrong) if wrong else "")
            case "vm_event":
                event = update.vm_event
                if wrong := reports.find_wrong(event.vm):
                    await self._complain(watch, "vms", reports.complaint(wrong))
                elif event.kind == host_pb2.VmEvent.UNDEFINED or not is_there(event.vm):
                    watch.vms.pop(event.vm.vm_id, None)
                else:
                    watch.vms[event.vm.vm_id] = seen(event.vm, reports.clean_text(event.detail))
                    if event.kind == host_pb2.VmEvent.STARTED and is_starting(event.vm.vm_id):
                        # A comparison leaves a VM alone that an operation holds; the sweep sees what became of it.
                        watch.changed()
                        return
                self._mark(watch)

    async def _set_facts(self, watch: Watch, version: str, capabilities: types_host_pb2.Capabilities) -> None:
        complaint = await self._in_database(store.set_facts, watch.host, version, capabilities)
        await self._complain(watch, "facts", complaint)

    async def _complain(self, watch: Watch, about: str, complaint: str) -> None:
        """Records that a host is up, and what is wrong with it; complaint: "" when nothing is wrong any more.

        Loads come every few seconds: of several wrong ones the first is told.
        """
        before = watch.complaints.get(about, "")
        if about != "facts" and (not watch.heard or bool(before) == bool(complaint)):
            return
        watch.complaints[about] = complaint
        if reports.is_complaint(complaint) and not reports.is_complaint(before):
            await self._in_database(store.record_bad_report, watch.host, complaint)
        await self._set_state(watch, HostState.UP, next(filter(None, watch.complaints.values()), ""))

    async def _set_state(self, watch: Watch, state: HostState, reason: str) -> None:
        if (watch.state, watch.reason) != (state, reason) or watch.host.state is not state:
            log.info("host", host=watch.host.name, state=state, reason=reason)
            watch.state, watch.reason = state, reason
            watch.set_count += 1
            await self._in_database(store.set_state, watch.host, state, reason)

    async def _on_contact(self, watch: Watch) -> None:
        """What a host gets on contact, and then regularly: what to trust, and its pools."""
        if self._bundle is not None:
            await push_trust(watch, self._bundle)
        while True:
            try:
                await self._ensure_pools(watch)
            except Exception:
                log.exception("measuring pools failed by a bug", host=watch.host.name)
            await asyncio.sleep(self._intervals.pools_s * random.uniform(0.8, 1.2))

    async def _ensure_pools(self, watch: Watch) -> None:
        host_id = watch.host.host_id
        for spec in await self._in_database(reach.specs_for, host_id):
            answer, reason = None, ""
            try:
                answer = await ensure_pool(watch, spec, self._keys)
            except grpc.aio.AioRpcError as error:
                reason = from_rpc_error(error).message
            except OstlerError as error:
                reason = error.message
            await self._in_database(reach.record, spec.pool_id, host_id, answer, reason)

    # What hosts trust.

    async def _renew_trust(self) -> None:
        bundle = await self._in_database(self._trust)
        if bundle == self._bundle:
            return
        news = self._bundle is not None or bundle.is_news
        self._bundle = bundle
        if news:
            heard = [watch for watch in self._watches.values() if watch.heard]
            await asyncio.gather(*(push_trust(watch, bundle) for watch in heard))

    # Comparing reports with rows.

    def _mark(self, watch: Watch) -> None:
        watch.changed()
        self._dirty.add(watch.host.host_id)
        self._dirty_now.set()

    async def _sweep(self) -> None:
        for part in range(_PARTS):
            await asyncio.sleep(self._intervals.sweep_s / _PARTS)
            for watch in list(self._watches.values())[part::_PARTS]:
                self._mark(watch)

    async def _reconcile(self) -> None:
        await self._dirty_now.wait()
        await asyncio.sleep(self._gather_s)
        self._dirty_now.clear()
        dirty, self._dirty = self._dirty, set()
        views = {host_id: watch.view() for host_id, watch in self._watches.items()}
        begin = asyncio.get_running_loop().time()
        await self._in_database(self._comparison.write, dirty & set(views), views)
        took_s = asyncio.get_running_loop().time() - begin
        self._gather_s = min(max(_GATHER_FACTOR * took_s, _MIN_GATHER_S), _MAX_GATHER_S)

    async def _flush_loads(self) -> None:
        await asyncio.sleep(self._interval_s / _PARTS)
        loads, self._loads = self._loads, {}
        if loads:
            host_loads.hear(loads)
            await self._in_database(store.set_loads, loads, self._kept_loads)

    def _forget_loads(self, host_ids: list[str]) -> None:
        """Runs in the worker thread."""
        host_loads.forget(host_ids)
        self._kept_loads.forget(host_ids)
