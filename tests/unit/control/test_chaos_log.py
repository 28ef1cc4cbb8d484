"""The hunt's auditor keeps the end of the chain, and tells when the log does not go on from there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ostler_control import events
from ostler_control.events import linking
from ostler_control.models import Event, EventChain

from tests.chaos import journal, log
from tests.chaos.log import Auditor
from tests.fakes.working_agent import wait_until


@pytest.fixture
def auditor(sqlite_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Auditor]:
    """Has seen three events."""
    monkeypatch.setattr(log, "KEEP_S", 0.02)
    for number in range(3):
        events.record("vm.start", events.Outcome.STARTED, "c0", "vm", f"id-{number}", "web", operation_id="o")
    linking.link_all()
    found = Auditor()
    wait_until(lambda: found.marks)
    yield found
    found.stop()


def test_a_log_that_goes_on_is_whole(auditor: Auditor) -> None:
    events.record("vm.start", events.Outcome.SUCCEEDED, "c0", "vm", "id-0", "web", operation_id="o")
    linking.link_all()
    wait_until(lambda: len(auditor.marks) == 2)
    assert [mark.sequence for mark in auditor.marks] == [3, 4]
    assert auditor.violations() == []
    entries, works = log.read()
    assert entries[-1] == journal.Entry(4, "vm.start", "succeeded", "c0", "vm/web", "o")
    assert works == []


def test_events_that_were_lost_and_replaced_are_told(auditor: Auditor) -> None:
    auditor.stop()
    Event.delete().where(Event.sequence == 3).execute()
    before = Event.get(Event.sequence == 2)
    EventChain.update(sequence=2, digest=before.digest).execute()
    found = auditor.violations()
    assert any("the log ends before event 3" in one for one in found)
    events.record("vm.start", events.Outcome.STARTED, "c1", "vm", "id-9", "web")
    found = auditor.violations()
    assert any("event 3 has another digest than the one that was given" in one for one in found)
    assert "event 3 has another digest than during the run" in found
