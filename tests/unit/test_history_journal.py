"""The comparison of histories with the audit log accepts what may happen, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.history import Call, Outcome
from tests.chaos.journal import Entry, Work, violations

DONE, REFUSED, FAILED, UNKNOWN = Outcome.DONE, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN
CALL = Call(0, "vm.stop", "vm/a", 0, 1, DONE, "stopped", operation="o1")
STARTED = Entry(1, "vm.stop", "started", "c0", "vm/a", "o1")
ENDED = Entry(2, "vm.stop", "succeeded", "c0", "vm/a", "o1")
WORK = Work("o1", "vm.stop", "c0", "vm/a", "succeeded")
LOST = replace(CALL, outcome=UNKNOWN, operation="")
REFUSAL = replace(LOST, outcome=REFUSED, reason="VM_STATE")
FAILURE = (replace(CALL, outcome=FAILED), [STARTED, replace(ENDED, outcome="failed")], replace(WORK, state="failed"))
SYSTEMS = Entry(3, "host.disconnect", "noticed", "system", "host/h1", "")


@pytest.mark.parametrize(
    ("calls", "entries", "works"),
    [
        ([CALL], [STARTED, ENDED], [WORK]),
        ([CALL], [STARTED, ENDED, SYSTEMS], [WORK]),
        ([CALL], [STARTED, Entry(2, "volume.key.destroy", "succeeded", "c0", "volume/b", "o1"), ENDED], [WORK]),
        ([FAILURE[0]], FAILURE[1], [FAILURE[2]]),
        ([replace(CALL, outcome=UNKNOWN)], FAILURE[1], [FAILURE[2]]),
        ([LOST], [STARTED, ENDED], [WORK]),
        ([LOST], [], []),
        ([REFUSAL], [], []),
        ([], [replace(STARTED, actor="system"), replace(ENDED, actor="system")], [replace(WORK, user="system")]),
    ],
)
def test_what_the_log_may_tell(calls: list[Call], entries: list[Entry], works: list[Work]) -> None:
    assert violations(calls, entries, works) == []


@pytest.mark.parametrize(
    ("calls", "entries", "works", "told"),
    [
        ([CALL], [ENDED], [WORK], "has 0 events of its start"),
        ([CALL], [STARTED, STARTED, ENDED], [WORK], "has 2 events of its start"),
        ([CALL], [STARTED], [WORK], "its events say "),
        ([CALL], [STARTED, replace(ENDED, outcome="failed")], [WORK], "its events say failed"),
        ([CALL], [STARTED, ENDED, ENDED], [WORK], "its events say succeeded, succeeded"),
        ([CALL], [replace(STARTED, actor="c1"), ENDED], [WORK], "has an event by c1"),
        ([CALL], [STARTED, replace(ENDED, object="vm/b")], [WORK], "has an event of vm/b"),
        ([CALL], [STARTED, ENDED, replace(STARTED, operation="o2")], [WORK], "of an operation that is not there"),
        ([CALL], [STARTED, ENDED, replace(STARTED, operation="")], [WORK], "is of no call"),
        ([CALL], [], [], "its operation o1 is not there"),
        ([CALL, replace(CALL, begin=2)], [STARTED, ENDED], [WORK], "is an earlier call's"),
        ([CALL], FAILURE[1], [FAILURE[2]], "was told done, and its operation is failed"),
        ([FAILURE[0]], [STARTED, ENDED], [WORK], "was told failed, and its operation is succeeded"),
        ([replace(CALL, client=1)], [STARTED, ENDED], [WORK], "its operation is vm.stop of vm/a by c0"),
        ([REFUSAL], [STARTED, ENDED], [WORK], "1 operations vm.stop of vm/a by c0 are of no call"),
        ([replace(LOST, object="vm/b")], [STARTED, ENDED], [WORK], "1 operations vm.stop of vm/a by c0 are of no call"),
    ],
)
def test_what_the_log_must_not_tell(calls: list[Call], entries: list[Entry], works: list[Work], told: str) -> None:
    found = violations(calls, entries, works)
    assert len(found) == 1
    assert told in found[0]


def test_one_lost_answer_is_one_operation() -> None:
    """A call that was repeated with its request id is carried out once."""
    again = [replace(STARTED, operation="o2"), replace(ENDED, operation="o2")]
    found = violations([LOST], [STARTED, ENDED, *again], [WORK, replace(WORK, id="o2")])
    assert found == ["1 operations vm.stop of vm/a by c0 are of no call"]
