"""The models' own columns."""

from __future__ import annotations

import pytest
from ostler_control.models import (
    Host,
    HostState,
    OperationState,
    PlanState,
    PowerState,
    Vm,
    VmState,
    first_tuple,
    tuples,
)

from tests.fleets import Fleet, make_fleet

pytestmark = pytest.mark.usefixtures("fresh_database")


@pytest.fixture
def fleet(fresh_database: None) -> Fleet:
    return make_fleet(2)


def test_a_state_is_an_enum_that_its_column_keeps_as_text(fleet: Fleet) -> None:
    vm = fleet.vm("a")
    assert vm.state is VmState.STOPPED
    again = Vm.get_by_id(vm.id)
    assert again.state is VmState.STOPPED
    assert again.power_state is PowerState.UNKNOWN
    again.state = VmState.RUNNING
    again.save()
    assert tuples(Vm.select(Vm.name, Vm.state), tuple[str, VmState]) == [("a", VmState.RUNNING)]
    assert Vm.select().where(Vm.state == "running").count() == 1
    assert Vm.select().where(Vm.state.in_((VmState.STOPPED, "failed"))).count() == 0


def test_a_misspelled_state_is_refused_in_rows_and_in_queries(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="runing"):
        Vm(name="b", state="runing")
    with pytest.raises(ValueError, match="runing"):
        Vm.update(state="runing").execute()
    with pytest.raises(ValueError, match="runing"):
        list(Vm.select().where(Vm.state == "runing"))


def test_rows_as_typed_tuples(fleet: Fleet) -> None:
    names = Host.select(Host.name, Host.state).order_by(Host.name)
    assert tuples(names, tuple[str, HostState]) == [("h1", HostState.UP), ("h2", HostState.UP)]
    assert first_tuple(names, tuple[str, HostState]) == ("h1", HostState.UP)
    assert first_tuple(names.where(Host.name == "none"), tuple[str, HostState]) is None


def test_states_answer_questions() -> None:
    assert [state for state in VmState if state.is_stable] == ["stopped", "running", "failed"]
    assert [state for state in PowerState if state.is_executing] == ["running", "paused"]
    assert [state for state in OperationState if state.is_over] == ["succeeded", "failed", "cancelled"]
    assert [state for state in PlanState if state.is_active] == ["ready", "in_progress"]
    assert not PlanState.UNDER_REVIEW.is_over
