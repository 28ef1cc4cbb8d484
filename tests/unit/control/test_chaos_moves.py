"""The hunt's admin who moves VMs by hand puts right what came of it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from ostler_control import vms
from ostler_control.models import Vm
from ostler_control.operations import Engine

from tests.chaos.moves import Moves
from tests.chaos.run import _checked
from tests.sites import Site, outcome

OK = ("succeeded", "")


def created(site: Site, engine: Engine) -> Any:
    """A VM that runs on h1."""
    operation = site.record(lambda: site.new_vm("guest", host=site.host("h1")))
    assert outcome(engine, operation) == OK
    return Vm.get_by_id(operation.resource_id)


def stop(site: Site, engine: Engine, vm: Any) -> None:
    """As a user does."""
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice", force=True))) == OK


@pytest.mark.parametrize("then", ["nothing", "stop"])
def test_a_vm_that_was_moved_is_where_ostler_has_it(site: Site, engine: Engine, then: str) -> None:
    vm, moves = created(site, engine), Moves(site)
    assert moves.move(random.Random(1)) == vm.id
    assert site.fleet.running_on(vm.id) == ["h2"]
    if then == "stop":
        stop(site, engine, vm)
    moves.put_right(vm.id)
    assert site.fleet.running_on(vm.id) == (["h1"] if then == "nothing" else [])
    assert [host.name for host in site.hosts.values() if vm.id in host.vms] == ["h1"]


def test_a_vm_that_was_deleted_meanwhile_is_gone(site: Site, engine: Engine) -> None:
    vm, moves = created(site, engine), Moves(site)
    moves.move(random.Random(1))
    # The host that is asked to delete the disk may be the one where it is open.
    deleted = outcome(engine, site.record(lambda: vms.delete(vm, "alice", force=True)))
    assert deleted in (OK, ("failed", "VOLUME_IN_USE"))
    moves.put_right(vm.id)
    assert site.fleet.running_on(vm.id) == []


def test_the_lock_of_an_image_refuses_a_second_qemu_and_is_counted(site: Site, engine: Engine) -> None:
    vm, moves = created(site, engine), Moves(site)
    site.fleet.image_locks = True
    moves.move(random.Random(1))
    stop(site, engine, vm)
    start = site.record(lambda: vms.start(Vm.get_by_id(vm.id), "alice", site.host("h1")))
    assert outcome(engine, start) == ("failed", "VOLUME_IN_USE")
    assert site.fleet.refused_by_locks == {vm.id}
    moves.put_right(vm.id)


def test_a_definition_that_nobody_knows_is_a_violation_though_it_does_not_run(site: Site, engine: Engine) -> None:
    vm = created(site, engine)
    definition, h2 = site.hosts["h1"].vms[vm.id], site.hosts["h2"]
    assert _checked(site) == []
    h2.vms["0d6f0e4c-0000-4000-8000-000000000001"] = replace(definition, running=False)
    assert ["the database does not know it" in found for found in _checked(site)] == [True]
    h2.vms.clear()


def test_a_vm_that_was_stopped_by_hand_runs_again_unless_ostler_stopped_it_too(site: Site, engine: Engine) -> None:
    vm, moves = created(site, engine), Moves(site)
    assert moves.stop(random.Random(1)) == vm.id
    assert site.fleet.running_on(vm.id) == []
    assert moves.stop(random.Random(1)) == "", "none runs"
    moves.put_right(vm.id)
    assert site.fleet.running_on(vm.id) == ["h1"]
    moves.stop(random.Random(1))
    stop(site, engine, vm)
    moves.put_right(vm.id)
    assert site.fleet.running_on(vm.id) == []
    site.check_whole()


def test_a_vm_that_was_started_by_hand_is_off_again(site: Site, engine: Engine) -> None:
    vm, moves = created(site, engine), Moves(site)
    assert moves.start(random.Random(1)) == "", "all run"
    stop(site, engine, vm)
    assert moves.start(random.Random(1)) == vm.id
    assert site.fleet.running_on(vm.id) == ["h1"]
    moves.put_right(vm.id)
    assert site.fleet.running_on(vm.id) == []
    site.check_whole()


def test_a_vm_whose_definition_is_gone_starts_all_the_same(site: Site, engine: Engine) -> None:
    vm, moves = created(site, engine), Moves(site)
    assert moves.undefine(random.Random(1)) == "", "it runs"
    stop(site, engine, vm)
    assert moves.undefine(random.Random(1)) == vm.id
    assert vm.id not in site.hosts["h1"].vms
    assert outcome(engine, site.record(lambda: vms.start(Vm.get_by_id(vm.id), "alice"))) == OK
    site.check_whole()


def test_a_hypervisors_daemon_that_is_away_keeps_a_start_from_being_known(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the VM was started before the daemon ended, Ostler says that it cannot tell."""
    vm = created(site, engine)
    stop(site, engine, vm)
    host = site.hosts["h1"]
    for unheard in (1.0, 0.0):
        monkeypatch.setattr("random.random", lambda found=unheard: found)
        host.daemon_away = True
        operation = site.record(lambda: vms.start(Vm.get_by_id(vm.id), "alice", site.host("h1")))
        assert outcome(engine, operation) == ("failed", "LIBVIRT_UNAVAILABLE")
        host.daemon_away = False
        found = Vm.get_by_id(vm.id)
        assert (found.state, found.power_state) == ("running", "")
        assert found.attention.startswith("may not be running")
        stop(site, engine, Vm.get_by_id(vm.id))
    site.check_whole()


def test_a_full_pool_refuses_new_files_and_leaves_nothing(site: Site, engine: Engine) -> None:
    created(site, engine)
    site.fleet.full.add(site.pools["shared"].id)
    assert outcome(engine, site.record(lambda: site.new_vm("second"))) == ("failed", "POOL_FULL")
    site.check_whole()
