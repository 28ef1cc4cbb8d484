"""The model of histories accepts what may happen, and nothing else."""

from __future__ import annotations

import pytest

from tests.chaos.history import Call, Outcome, allowed, violations

DONE, REFUSED, FAILED, UNKNOWN = Outcome.DONE, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN


def call(verb: str, begin: float, end: float, outcome: Outcome, effect: str, reason: str = "") -> Call:
    return Call(0, verb, "vm/a", begin, end, outcome, effect, reason)


CREATE = call("create", 0, 1, DONE, "running")
LOST_STOP = call("stop", 2, 3, UNKNOWN, "stopped")


@pytest.mark.parametrize(
    ("calls", "states"),
    [
        ([], {"absent"}),
        ([CREATE], {"running"}),
        ([CREATE, call("stop", 2, 3, DONE, "stopped")], {"stopped"}),
        ([CREATE, call("stop", 2, 3, REFUSED, "stopped")], {"running"}),
        ([CREATE, call("stop", 2, 3, FAILED, "stopped")], {"running", "failed"}),
        ([CREATE, call("stop", 2, 3, UNKNOWN, "stopped")], {"running", "stopped", "failed"}),
        (
            [CREATE, call("stop", 2, 3, UNKNOWN, "stopped"), call("start", 4, 5, DONE, "running")],
            {"running", "stopped", "failed"},
        ),
        ([CREATE, call("stop", 2, 3, UNKNOWN, "stopped"), call("start", 40, 41, DONE, "running")], {"running"}),
        ([CREATE, call("stop", 0.5, 3, DONE, "stopped")], {"running", "stopped"}),
        ([CREATE, call("delete", 2, 3, DONE, "absent")], {"absent"}),
        ([CREATE, call("stop", 2, 3, FAILED, "stopped"), call("delete", 4, 5, DONE, "absent")], {"absent"}),
    ],
)
def test_what_may_be_there(calls: list[Call], states: set[str]) -> None:
    assert allowed(calls) == states


@pytest.mark.parametrize(
    ("calls", "final"),
    [
        ([CREATE], {}),  # an acknowledged VM is gone
        ([CREATE, call("delete", 2, 3, DONE, "absent")], {"vm/a": "running"}),  # a deleted one is back
        ([CREATE, call("stop", 2, 3, DONE, "stopped")], {"vm/a": "running"}),  # a stop was lost
        ([CREATE, call("stop", 2, 3, REFUSED, "stopped")], {"vm/a": "stopped"}),  # a refused call had an effect
        ([call("create", 0, 1, REFUSED, "running")], {"vm/a": "running"}),
        ([CREATE], {"vm/a": "failed"}),  # nothing failed
        ([CREATE, call("stop", 2, 3, FAILED, "stopped")], {"vm/a": "running"}),  # no reason is given
        (  # a start that was acknowledged later is lost
            [CREATE, LOST_STOP, call("start", 40, 41, DONE, "running")],
            {"vm/a": "stopped"},
        ),
        # What an agent left that died in the middle was not undone.
        ([call("create", 0, 1, FAILED, "running", "INTERRUPTED")], {"vm/a": "running"}),
        (
            [call("create", 0, 1, DONE, "stopped"), call("start", 2, 3, FAILED, "running", "INTERRUPTED")],
            {"vm/a": "running"},
        ),
        ([CREATE, call("delete", 2, 3, FAILED, "absent", "INTERRUPTED")], {}),
        ([], {"vm/b": "ready"}),
        ([CREATE, call("stop", 2, 3, FAILED, "stopped", "INTERNAL")], {"vm/a": "running"}),
    ],
)
def test_what_must_not_be(calls: list[Call], final: dict[str, str]) -> None:
    assert len(violations(calls, final)) == 1


def test_a_history_that_was_kept_has_none() -> None:
    assert violations([CREATE, call("stop", 2, 3, DONE, "stopped")], {"vm/a": "stopped"}) == []
