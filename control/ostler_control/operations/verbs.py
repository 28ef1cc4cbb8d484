"""Which function carries out which verb."""

from __future__ import annotations

from collections.abc import Callable

from ostler_control.operations.run import Run

Body = Callable[[Run], None]

_BODIES: dict[str, Body] = {}


def workflow(verb: str) -> Callable[[Body], Body]:
    """Registers the body of a verb ("vm.create"). Its steps' names and order are kept in journals: while operations of
    an older release may be under way, a body whose steps change gets a new verb."""

    def register(body: Body) -> Body:
        assert verb not in _BODIES, verb
        _BODIES[verb] = body
        return body

    return register


def body_of(verb: str) -> Body:
    """The body of a verb; KeyError when there is none."""
    return _BODIES[verb]


Chore = Callable[[], None]

_CHORES: list[Chore] = []


def chore(run: Chore) -> Chore:
    """Registers something that every replica's engine does every few seconds, and at its start."""
    _CHORES.append(run)
    return run


def chores() -> tuple[Chore, ...]:
    """All that were registered."""
    return tuple(_CHORES)
