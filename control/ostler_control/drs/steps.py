"""What strategies hand to the planner: units of moves that are made together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ostler_control.drs.search import Choice
from ostler_control.drs.state import State
from ostler_control.drs.table import Ints


@dataclass(frozen=True)
class Unit:
    """One move, or two that swap VMs, or all that empty a host. moves: (VM, host) in their order; reason: what is said
    of each besides its numbers; swap: whether they only gain together; tied: whether none makes sense without the
    others for another reason."""

    moves: tuple[tuple[int, int], ...]
    reason: str = ""
    considered: tuple[Choice, ...] = ()
    swap: bool = False
    tied: bool = False


class End(StrEnum):
    """Why no further move follows, in words."""

    SATISFIED = "then the algorithm is satisfied"
    NO_GAIN = "then no move that is allowed helps any more"
    FULL = "then the plan has as many moves as it may (drs.max.migrations)"


def count(units: Sequence[Unit]) -> int:
    """Moves in all."""
    return sum(len(unit.moves) for unit in units)


def unmoved(state: State, vms: Ints) -> Ints:
    """Those of the VMs that are where they were at first."""
    found: Ints = vms[state.at[vms] == state.origin[vms]]
    return found


def apply(state: State, unit: Unit) -> None:
    """Makes its moves."""
    for vm, host in unit.moves:
        state.move(vm, host)


def undo(state: State, unit: Unit) -> None:
    """Takes them back. Every VM moves at most once, so each goes back to where it was at first."""
    for vm, _ in reversed(unit.moves):
        if state.at[vm] != state.origin[vm]:
            state.move(vm, int(state.origin[vm]))


def undo_all(state: State) -> None:
    """Takes every move back."""
    for vm in (state.at != state.origin).nonzero()[0].tolist():
        state.move(vm, int(state.origin[vm]))
