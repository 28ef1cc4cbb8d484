"""Random orders of what may happen to hosts, VMs and the control plane, with real operations in their threads.

Whatever the order: no VM runs twice, no host is switched off that answers, and once everything has come back each
protected VM runs once, or an event says why it does not. `HA_SEEDS=100-200` tries other orders; the threads make one
seed more than one order.
"""

from __future__ import annotations

import os
import random

import pytest
from ostler_control import settings
from ostler_control.ha import priorities
from ostler_control.models import Event, Priority, Vm, VmState
from ostler_control.operations import Engine

from tests.sites import Site
from tests.unit.control.ha.place import host_of, vm
from tests.unit.control.ha.world import World, happen

pytestmark = pytest.mark.slow

_EVENTS = 60
_TELLING = ("vm.stopped", "vm.vanished", "vm.crashed", "vm.restart.wait", "vm.host-off")


def _seeds() -> range:
    first, _, last = os.environ.get("HA_SEEDS", "1-3").partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.mark.parametrize("seed", _seeds())
def test_whatever_the_order_each_vm_runs_once(
    site: Site, engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    settings.change("ha.fence.limit", str(dice.choice([1, 3, 100])), "root")
    if dice.random() < 0.5:
        priorities.set_vm(vm("other"), Priority.MEDIUM, "root")
    world = World(site, engine, dice, monkeypatch)
    for _ in range(_EVENTS):
        happen(world)
    settings.change("ha.fence.limit", "100", "root")
    world.come_to_rest()
    for row in Vm.select():
        where = site.fleet.running_on(row.id)
        story = "\n".join([*world.log, f"{row.name}: {row.state} {row.power_state} {row.attention} on {where}"])
        if row.name == "other" and row.state is VmState.STOPPED:
            assert where == [], story
            continue
        assert row.state is VmState.RUNNING, story
        assert where == ([host_of(row.name)] if row.power_state.is_executing else []), story
        if not where:
            assert row.attention, story
            told = Event.select().where(Event.resource_id == row.id, Event.type.in_(_TELLING))
            assert told.exists(), story
    site.check_whole(lost_hosts=True)
