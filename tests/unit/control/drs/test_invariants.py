"""What holds for every cluster."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ostler_control.drs import Mode, Placements, Settings, Snapshot, plan
from ostler_control.drs.algorithms import algorithm
from ostler_control.drs.reserve import Reserve
from ostler_control.drs.search import EPSILON, Search
from ostler_control.drs.state import State

from tests.unit.control.drs.chance import every_settings, snapshots


@hypothesis_settings(max_examples=100, deadline=None)
@given(snapshots(), every_settings(), st.sampled_from(list(Mode)))
def test_plans_keep_every_rule_and_make_nothing_worse(snapshot: Snapshot, settings: Settings, mode: Mode) -> None:
    leaving = [snapshot.hosts[0].id] if mode is Mode.EVACUATE else []
    found = plan(snapshot, settings, mode, leaving=leaving)
    placements = Placements(snapshot, settings, leaving)
    reserve = Reserve(snapshot, settings)
    without_place = reserve.missing
    strict_before = {rule.group_id: rule.pairs for rule in placements.neighbours.broken() if rule.strict}
    ids = [move.vm_id for move in found.moves]
    assert len(set(ids)) == len(ids)
    assert mode is Mode.EVACUATE or len(ids) <= settings.max_migrations
    for number, move in enumerate(found.moves):
        assert move.source_id == placements.host_of[move.vm_id]
        assert placements.refusal(move.vm_id, move.destination_id, preferred=mode is Mode.BALANCE) is None
        assert placements.hosts[move.destination_id].in_service
        assert move.destination_id not in leaving
        rules = [group for group in snapshot.groups if group.id in placements.vms[move.vm_id].groups]
        assert all(rule.allows_host(move.destination_id) for rule in rules if rule.strict)
        moved = placements.vms[move.vm_id]
        assert not moved.skip or mode is Mode.EVACUATE
        # 2,000 s are more than the cooldown, and less than the doubled one.
        assert moved.moved_ago_s is None or moved.recent_moves < 2 or mode is Mode.EVACUATE
        assert all(need < number for need in move.needs)
        placements.move(move.vm_id, move.destination_id)
        reserve.move(move.vm_id, move.destination_id)
        assert mode is Mode.EVACUATE or reserve.missing <= without_place
        strict_now = {rule.group_id: rule.pairs for rule in placements.neighbours.broken() if rule.strict}
        if mode is not Mode.EVACUATE:  # a group that must stay together cannot leave a host in one piece
            assert all(pairs <= strict_before.get(id, 0) for id, pairs in strict_now.items())
    if mode is Mode.BALANCE and settings.algorithm == "balanced":
        alone = [move for move in found.moves if move.swap is None]
        assert all(move.gain > 0 and move.gain >= settings.min_gain for move in alone)
        assert found.imbalance_after <= found.imbalance_before
    if mode is Mode.BALANCE and settings.algorithm == "condensed":
        emptied = {move.source_id for move in found.moves}
        assert emptied.isdisjoint(placements.host_of.values())


@hypothesis_settings(max_examples=40, deadline=None)
@given(snapshots(), every_settings(), st.randoms(use_true_random=False))
def test_same_cluster_same_plan_in_whatever_order(
    snapshot: Snapshot, settings: Settings, chance: random.Random
) -> None:
    shuffled = Snapshot(
        tuple(chance.sample(snapshot.hosts, len(snapshot.hosts))),
        tuple(chance.sample(snapshot.vms, len(snapshot.vms))),
        snapshot.groups,
    )
    assert plan(shuffled, settings) == plan(snapshot, settings)


@hypothesis_settings(max_examples=100, deadline=None)
@given(snapshots(), every_settings(), st.randoms(use_true_random=False))
def test_rules_as_arrays_are_the_rules(snapshot: Snapshot, settings: Settings, chance: random.Random) -> None:
    """`State.fits` answers as `rules.refusal` does, before and after moves."""
    state = State(snapshot, settings, algorithm("balanced"))
    placements = Placements(snapshot, settings)
    for _ in range(4):
        unmoved = np.flatnonzero(state.at == state.origin)  # nobody asks about the others: no VM moves twice
        for preferred in (True, False):
            fits = state.fits(unmoved, preferred=preferred)
            expected = [
                [placements.refusal(vm.id, host.id, preferred=preferred) is None for host in state.hosts]
                for vm in (state.vms[position] for position in unmoved)
            ]
            assert fits.tolist() == expected
        possible = np.argwhere(fits)
        if not len(possible):
            return
        row, host = chance.choice(possible.tolist())
        vm = int(unmoved[row])
        state.move(vm, host)
        placements.move(state.vms[vm].id, state.hosts[host].id)


@pytest.mark.parametrize("dense", [True, False], ids=["all pairs", "by bounds"])
@hypothesis_settings(max_examples=100, deadline=None)
@given(snapshot=snapshots(), settings=every_settings())
def test_the_best_move_is_that_of_every_pair(dense: bool, snapshot: Snapshot, settings: Settings) -> None:
    """By brute force: each move made, the imbalance measured anew, and taken back."""
    patch = pytest.MonkeyPatch()
    patch.setattr("ostler_control.drs.search._DENSE_CELLS", 1 << 30 if dense else -1)
    state = State(snapshot, settings, algorithm(settings.algorithm))
    with patch.context():
        found = Search(state).best(np.arange(len(state.vms)), settings.min_gain)
    best = 0.0
    before = state.imbalance
    fits = state.fits(np.arange(len(state.vms)))
    for vm, host in np.argwhere(fits).tolist():
        source = int(state.at[vm])
        cost = state.cost_of(vm, host)
        state.move(vm, host)
        gain = state.gain(before, state.imbalance)
        state.move(vm, source)
        if state.count >= 2 and gain >= settings.min_gain:
            best = max(best, state.worth(gain, cost))
    patch.undo()
    assert (found[0].score if found else 0.0) == pytest.approx(best, abs=1e3 * EPSILON)
