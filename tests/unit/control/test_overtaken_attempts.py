"""An attempt that was overtaken while its host answered, as that of a frozen replica, changes nothing any more."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from ostler_control import vms
from ostler_control.models import Vm
from ostler_control.operations import Engine, Run

from tests.fakes.working_agent import wait_until
from tests.sites import Site, outcome

OK = ("succeeded", "")


def test_a_stop_that_was_overtaken_does_not_undo_a_later_start(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = site.record(lambda: site.new_vm("guest", host=site.host("h1")))
    assert outcome(engine, created) == OK
    vm = Vm.get_by_id(created.resource_id)
    answered, go_on, job = threading.Event(), threading.Event(), Run.job

    def slow(self: Run, *given: Any, **named: Any) -> Any:
        found = job(self, *given, **named)
        if self.id == operation.id and self.attempt == 1:
            answered.set()
            go_on.wait(20)
        return found

    monkeypatch.setattr(Run, "job", slow)
    operation: Any = None
    operation = site.record(lambda: vms.stop(vm, "alice", force=True))
    assert answered.wait(20)
    engine.run(operation.id)  # as another replica does that has adopted it
    assert outcome(engine, operation) == OK
    assert Vm.get_by_id(vm.id).state == "stopped"
    assert outcome(engine, site.record(lambda: vms.start(Vm.get_by_id(vm.id), "alice", site.host("h2")))) == OK
    go_on.set()
    wait_until(lambda: not engine._starter.knows(operation.id))
    found: Any = Vm.get_by_id(vm.id)
    assert (found.state, found.host.name, site.fleet.running_on(vm.id)) == ("running", "h2", ["h2"])
    site.check_whole()
