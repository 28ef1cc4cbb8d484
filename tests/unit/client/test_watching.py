"""Watching events and objects."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest
from ostler.client import PermissionDeniedError, watching
from ostler.client.client import Client
from ostler.control.v1.event_pb2 import Event, WatchEventsRequest
from ostler.control.v1.vm_pb2 import GetVmRequest, Vm
from ostler_common import errors

from tests.fakes.control import Control, at

BEGIN = datetime.fromtimestamp(at(0).seconds, UTC)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_S", 0.01)


def happen(control: Control, id_: str, sequence: int) -> None:
    control.events.insert(0, Event(id=id_, time=at(sequence), type="vm.start", sequence=sequence))


def test_events_come_once_and_oldest_first_also_when_the_stream_breaks(control: Control, client: Client) -> None:
    happen(control, "a", 1)
    happen(control, "b", 2)
    silences: list[None] = []
    events = client.watch_events(since=BEGIN, on_silence=lambda: silences.append(None))
    assert [event.id for event in islice(events, 2)] == ["a", "b"]
    happen(control, "c", 3)
    assert next(events).id == "c"
    assert silences
    last = control.asked[-1]
    assert isinstance(last, WatchEventsRequest)
    assert (last.after_sequence, last.HasField("start_time")) == (2, False)


def test_only_events_of_one_object_are_asked_for(control: Control, client: Client) -> None:
    happen(control, "a", 1)
    next(client.watch_events(resource_id="9d1b", type="vm", since=BEGIN))
    [request] = control.asked
    assert isinstance(request, WatchEventsRequest)
    assert (request.resource_id, request.type, request.start_time) == ("9d1b", "vm", at(0))
    assert not request.HasField("after_sequence")


def test_watching_goes_on_after_an_event(control: Control, client: Client) -> None:
    happen(control, "a", 1)
    happen(control, "b", 2)
    assert next(client.watch_events(after=1)).id == "b"


def test_a_control_plane_that_stays_away_is_an_error(
    control: Control, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SILENCE_S", 0.0)
    control.error = errors.UnavailableError("gone", "STOPPING")
    with pytest.raises(errors.UnavailableError):
        next(client.watch_events())


def test_watching_raises_what_the_call_fails_with(control: Control, client: Client) -> None:
    control.error = errors.PermissionDeniedError("only admins see this", "ADMIN_ONLY")
    with pytest.raises(PermissionDeniedError):
        next(client.watch_events())


def test_states_of_an_object(control: Control, client: Client) -> None:
    seen = watching.states(lambda: client.vms.GetVm(GetVmRequest(vm="web-1")), interval_s=0)
    assert next(seen).state == Vm.RUNNING
    control.vms["web-1"].state = Vm.STOPPED
    assert next(seen).state == Vm.STOPPED
