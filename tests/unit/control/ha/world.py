"""Three hosts with power and a network that somebody takes away and gives back, and what must hold all the time."""

from __future__ import annotations

import contextlib
import datetime
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_control import vms
from ostler_control.fleet import store, watch
from ostler_control.fleet.comparison import Comparison
from ostler_control.fleet.reconcile import HostView, Seen
from ostler_control.ha import devices, run_agent
from ostler_control.ha import fence as fence_module
from ostler_control.ha.fence import FenceInputs
from ostler_control.ha.fence_agents import Action, Device, Power
from ostler_control.models import (
    Host,
    HostFence,
    HostState,
    Operation,
    Vm,
    VmRestart,
    VmState,
    new_id,
    now,
)
from ostler_control.operations import Engine, Run
from ostler_control.states import UNFINISHED_OPERATIONS
from ostler_control.vms.resolve import resolve_stranded

from tests.fakes.working_agent import FakeHost
from tests.sites import Site, outcome
from tests.unit.control.ha.place import Clock, vm

NAMES = ("h1", "h2", "h3")


class World:
    """wrong: what must not be and was. The fence devices switch at once; a host that they switch off may be switched on
    again at any moment, by them or by somebody."""

    def __init__(self, site: Site, engine: Engine, dice: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.engine, self.dice = site, engine, dice
        self.wrong: list[str] = []
        self.log: list[str] = []
        self._lock = threading.RLock()
        self._powered = dict.fromkeys(NAMES, True)
        self._connected = dict.fromkeys(NAMES, True)
        self._reachable_since = dict.fromkeys(NAMES, 0.0)
        self._asked: dict[str, float] = {}
        self._hanging = threading.Event()
        self._hanging.set()
        self._comparison = Comparison()
        self._views: dict[str, HostView] = {}
        self._late: dict[str, dict[str, Seen]] = {}
        self._clock = Clock(engine.agents)
        self._now_s = 1000.0
        site.fleet.image_locks = True  # it refuses a second run, and tells of it
        site.fleet.pace = self._pace
        engine.agents.unreachable_limit_s = dice.choice([0.4, 3.0, 3.0])
        monkeypatch.setattr(store, "QUIET_TIME", datetime.timedelta(0))
        monkeypatch.setattr(run_agent, "switch", self._switch)
        monkeypatch.setattr(run_agent, "ask_power", self._ask_power)
        monkeypatch.setattr(fence_module, "_check_silent", partial(self._check_silent, fence_module._check_silent))
        self._at_next_start: dict[str, Callable[[], None]] = {}
        for name in NAMES:
            fake = site.hosts[name]
            monkeypatch.setattr(fake, "_job", partial(self._job, name, fake._job))
            device = Device("redfish", name, "ostler", {"plug": "1"})
            new = devices.NewDevice(new_id(), device, Secret(b"p"), power_on=dice.random() < 0.5)
            devices.create(site.host(name), new, Power.ON, "root", site.keys)

    # What the devices do.

    def _switch(self, device: Device, password: Secret, action: Action) -> None:
        name = device.address
        with self._lock:
            since_s = self._reachable_since[name] if self._is_reachable(name) else math.inf
            if action is Action.OFF and since_s < self._asked.get(name, 0.0):
                self.wrong.append(f"host {name} was switched off although it answers")
            self._set_power(name, action is Action.ON)

    def _ask_power(self, device: Device, password: Secret) -> Power:
        with self._lock:
            return Power.ON if self._powered[device.address] else Power.OFF

    def _check_silent(self, check: Callable[[Run, FenceInputs], None], run: Run, inputs: FenceInputs) -> None:
        begun = time.monotonic()
        check(run, inputs)
        self._asked[{host.host_id: name for name, host in self.site.hosts.items()}[run.resource_id]] = begun

    # What happens to hosts.

    def _is_reachable(self, name: str) -> bool:
        return self._powered[name] and self._connected[name]

    def _set_power(self, name: str, on: bool) -> None:
        if on == self._powered[name]:
            return
        fake = self.site.hosts[name]
        self._powered[name] = on
        with self.site.fleet.lock:
            if on:
                fake.life.begin()
            else:
                fake.life.end()
                for machine in fake.vms.values():
                    machine.running = machine.migrating = False
                fake.secrets.clear()
                fake.admitted.clear()
        self._connect(name)

    def _connect(self, name: str) -> None:
        fake = self.site.hosts[name]
        fake.stop()
        if self._is_reachable(name):
            self._reachable_since[name] = time.monotonic()
            fake.start()

    def set_power(self, name: str, on: bool) -> None:
        with self._lock:
            self._set_power(name, on)

    def set_network(self, name: str, connected: bool) -> None:
        with self._lock:
            if connected != self._connected[name]:
                self._connected[name] = connected
                self._connect(name)

    def cut_off_at_next_start(self, name: str) -> None:
        """The next start or arrival reaches the host, and nothing that it answers reaches anybody."""
        self._at_next_start[name] = partial(self.set_network, name, False)

    def die_at_next_start(self, name: str) -> None:
        self._at_next_start[name] = partial(self.set_power, name, False)

    def come_for_one_start(self, name: str) -> None:
        self.cut_off_at_next_start(name)
        self.set_power(name, True)
        self.set_network(name, True)

    def _job(
        self, name: str, job: Any, method: str, kind: str, request: Any, context: grpc.ServicerContext, work: Any
    ) -> Iterator[Any]:
        updates = job(method, kind, request, context, work)
        is_start = method in ("StartVm", "PrepareMigration")
        happens = self._at_next_start.pop(name, None) if is_start else None
        if happens is None:
            yield from updates
            return
        threading.Thread(target=partial(self._go_on, updates), daemon=True).start()
        threading.Thread(target=happens, daemon=True).start()
        context.abort(grpc.StatusCode.UNAVAILABLE, "the network is gone")

    def _go_on(self, updates: Iterator[Any]) -> None:
        with contextlib.suppress(Exception):
            for _ in updates:
                pass

    def is_off(self, name: str) -> bool:
        return not self._powered[name]

    def _pace(self) -> None:
        self._hanging.wait(20)

    def hang(self, on: bool) -> None:
        """Jobs hang before and after their work, on all hosts."""
        if on:
            self._hanging.clear()
        else:
            self._hanging.set()

    # What the control plane does.

    def watch(self, name: str, late: bool = False) -> None:
        """What the watcher does with a host. late: the host's report is the one before its newest."""
        fake, row = self.site.hosts[name], self.site.host(name)
        reachable = self._is_reachable(name)
        here = {info.vm_id: watch.seen(info) for info in fake.vm_infos()}
        told = self._late.get(name, here) if late and reachable else here
        self._late[name] = here
        views = {host.host_id: self._views.get(host.host_id, HostView(host.host_id, host.name)) for host in self._all()}
        views[fake.host_id] = HostView(fake.host_id, name, heard=reachable, silent=not reachable, vms=told)
        self._views = views
        state = HostState.UP if reachable else HostState.DISCONNECTED
        store.set_state(store.WatchedHost(row.id, name, row.address, row.state), state, "")
        self._comparison.write({fake.host_id}, views)

    def watch_all(self) -> None:
        for name in NAMES:
            self.watch(name)

    def start_across_a_fencing(self, name: str) -> None:
        """A start is under way when its host dies, and reaches it once more when it is back."""
        self.die_at_next_start(name)
        self.ask(lambda: vms.start(vm("other"), "a", host=self.site.host(name)))
        time.sleep(0.3)
        self.watch_for_a_minute(name)
        time.sleep(0.5)
        self.come_for_one_start(name)

    def watch_for_a_minute(self, name: str) -> None:
        """If it is dead and its VMs are protected, it is fenced then."""
        self.watch(name)
        self.tick(1)
        self.tick(61)

    def _all(self) -> list[FakeHost]:
        return list(self.site.hosts.values())

    def tick(self, after_s: float) -> None:
        self._now_s += after_s
        self._clock.now_s = self._now_s
        self._clock.tick()

    def lead_anew(self) -> None:
        """Another replica leads: it has seen no silence."""
        self._clock = Clock(self.engine.agents)

    def declare_dead(self, name: str) -> None:
        """An admin who has looked; nobody switches the host on meanwhile."""
        with self._lock:
            if not self.is_off(name):
                return
            with contextlib.suppress(OstlerError):
                by_word = partial(fence_module.fence, self.site.host(name), "root", device=False, automatic=False)
                outcome(self.engine, self.site.record(by_word))

    def ask(self, make: Callable[[], Operation]) -> None:
        """What a user asks for, who does not wait."""
        with contextlib.suppress(OstlerError):
            self.site.record(make)

    # What must be.

    def look(self) -> None:
        """No VM runs twice, nor has only an image lock kept one from it."""
        for row in Vm.select():
            if len(where := self.site.fleet.running_on(row.id)) > 1:
                self.wrong.append(f"VM {row.name} runs on {where}")
        if self.site.fleet.refused_by_locks:
            self.wrong.append("a second run was refused by an image lock only")
        assert not self.wrong, "\n".join([*self.log, *self.wrong])

    def come_to_rest(self) -> None:
        """All hosts have power and network, and the control plane its time."""
        self.hang(False)
        self._at_next_start.clear()
        for name in NAMES:
            self.set_power(name, True)
            self.set_network(name, True)
        for _ in range(60):
            self.watch_all()
            VmRestart.update(next_time=now()).execute()
            ended = Operation.end_time.is_null(False)
            Operation.update(end_time=now() - datetime.timedelta(hours=1)).where(ended).execute()
            resolve_stranded(self.site.keys)
            self.tick(20)
            self.look()
            if not self._unrest():
                self.watch_all()  # what the last operation has left
                if not self._unrest():
                    return
            time.sleep(0.05)
        raise AssertionError("\n".join([*self.log, "it does not come to rest", *self._unrest()]))

    def _unrest(self) -> list[str]:
        unfinished = Operation.select().where(Operation.state.in_(UNFINISHED_OPERATIONS))
        fences = [f"{row.host.name} is {row.state} heard={row.heard} {row.reason}" for row in HostFence.select()]
        waiting = [f"{row.vm.name} waits: {row.reason}" for row in VmRestart.select()]
        down = [f"{row.name} is {row.state}" for row in Host.select().where(Host.state != HostState.UP)]
        moving = [f"{row.name} is {row.state}" for row in Vm.select().where(Vm.state == VmState.MIGRATING)]
        return [*(f"{row.verb} of {row.resource_name}" for row in unfinished), *fences, *waiting, *down, *moving]


def happen(world: World) -> None:
    """One event, by the dice."""
    dice, site = world.dice, world.site
    name = dice.choice(NAMES)
    weights = [3, 8, 2, 8, 2, 4, 4, 5, 8, 4, 2, 8, 16, 1, 1, 2, 3, 4, 3, 3, 1]
    events: list[tuple[str, Callable[[], object]]] = [
        ("loses power", lambda: world.set_power(name, False)),
        ("gets power", lambda: world.set_power(name, True)),
        ("is cut off", lambda: world.set_network(name, False)),
        ("is connected", lambda: world.set_network(name, True)),
        ("is cut off at its next start", lambda: world.cut_off_at_next_start(name)),
        ("loses power at its next start", lambda: world.die_at_next_start(name)),
        ("comes back for one start", lambda: world.come_for_one_start(name)),
        ("starts other, dies, and gets the start", lambda: world.start_across_a_fencing(name)),
        ("is watched for a minute", lambda: world.watch_for_a_minute(name)),
        ("is watched", lambda: world.watch(name)),
        ("is watched late", lambda: world.watch(name, late=True)),
        ("all are watched", world.watch_all),
        ("time passes", lambda: world.tick(dice.uniform(1, 40))),
        ("another replica leads", world.lead_anew),
        ("is declared dead", lambda: world.declare_dead(name)),
        ("jobs hang", lambda: world.hang(True)),
        ("jobs go on", lambda: world.hang(False)),
        ("other is started there", lambda: world.ask(lambda: vms.start(vm("other"), "a", host=site.host(name)))),
        ("other is stopped", lambda: world.ask(lambda: vms.stop(vm("other"), "a", force=True))),
        ("high moves there", lambda: world.ask(lambda: vms.migrate(vm("high"), "a", host=site.host(name)))),
        ("stranded VMs are asked for", lambda: resolve_stranded(site.keys)),
    ]
    [(what, event)] = dice.choices(events, weights)
    world.log.append(f"{name}: {what}")
    event()
    world.look()
    time.sleep(dice.choice([0, 0, 0.02, 0.2]))
