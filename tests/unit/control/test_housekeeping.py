from __future__ import annotations

import datetime

import pytest
from ostler_control import events, housekeeping
from ostler_control.hosts import absences
from ostler_control.models import Event, Host, Request, new_id, now
from structlog.testing import capture_logs

from tests.fleets import make_fleet


@pytest.mark.usefixtures("fresh_database")
def test_old_records_go_and_drift_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    year = datetime.timedelta(days=365)
    events.record("a.b", events.Outcome.NOTICED, "s", "a", "1", "old")
    Request.create(user="u", request_id=new_id(), method="m", digest="d")
    old_absences = iter((4, 0))
    monkeypatch.setattr(absences, "prune", lambda: next(old_absences))
    Event.update(create_time=now() - year).execute()
    Request.update(create_time=now() - year).execute()
    events.record("a.b", events.Outcome.NOTICED, "s", "a", "1", "new")
    make_fleet(2)
    with capture_logs() as quiet:
        housekeeping.tidy()
    assert [line["log_level"] for line in quiet] == ["info"]
    assert quiet[0]["count"] == 2 + 4
    assert [(event.type, event.resource_name) for event in Event.select().order_by(Event.create_time)] == [
        ("a.b", "new"),
        ("event.prune", "1"),
    ]
    Host.update(allocated_cpus=3).where(Host.name == "h2").execute()
    with capture_logs() as loud:
        housekeeping.tidy()
    assert [(line["log_level"], line["host"], line["recorded"]) for line in loud] == [("error", "h2", (3, 0))]
