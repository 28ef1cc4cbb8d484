"""The functions that run each verb, and periodic tasks."""

from __future__ import annotations

from collections.abc import Callable

from ostler_control.keys import Keyring
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


Task = Callable[[Keyring], None]

_TASKS: list[Task] = []


def periodic(run: Task) -> Task:
    """Registers a task that every replica's engine runs, with its keys, at its start and every few seconds."""
    _TASKS.append(run)
    return run


def periodic_tasks() -> tuple[Task, ...]:
    """All that were registered."""
    return tuple(_TASKS)
