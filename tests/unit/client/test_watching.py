"""Watching events and objects."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest
from ostler.client import PermissionDeniedError, watching
from ostler.client.client import Client
from ostler.control.v1.event_pb2 import Event, ListEventsRequest
from ostler.control.v1.vm_pb2 import GetVmRequest, Vm
from ostler_common import errors

from tests.fakes.control import Control, at

BEGIN = datetime.fromtimestamp(at(0).seconds, UTC)


def happen(control: Control, id_: str, seconds: int) -> None:
    control.events.insert(0, Event(id=id_, time=at(seconds), type="vm.start"))


def test_events_come_once_and_oldest_first(control: Control, client: Client) -> None:
    happen(control, "a", 1)
    happen(control, "b", 2)
    events = client.watch_events(since=BEGIN, interval_s=0)
    assert [event.id for event in islice(events, 2)] == ["a", "b"]
    happen(control, "c", 3)
    assert next(events).id == "c"


def test_an_event_that_is_recorded_late_is_not_missed(control: Control, client: Client) -> None:
    happen(control, "a", 60)
    events = client.watch_events(since=BEGIN, interval_s=0)
    assert next(events).id == "a"
    control.events.append(Event(id="late", time=at(59)))
    assert next(events).id == "late"


def test_only_events_of_one_object_are_asked_for(control: Control, client: Client) -> None:
    happen(control, "a", 1)
    next(client.watch_events(resource_id="9d1b", type="vm", since=BEGIN))
    [request] = control.asked
    assert isinstance(request, ListEventsRequest)
    assert (request.resource_id, request.type, request.start_time) == ("9d1b", "vm", at(0))


def test_watching_raises_what_the_call_fails_with(control: Control, client: Client) -> None:
    control.error = errors.PermissionDeniedError("only admins see this", "ADMIN_ONLY")
    with pytest.raises(PermissionDeniedError):
        next(client.watch_events())


def test_states_of_an_object(control: Control, client: Client) -> None:
    seen = watching.states(lambda: client.vms.GetVm(GetVmRequest(vm="web-1")), interval_s=0)
    assert next(seen).state == Vm.RUNNING
    control.vms["web-1"].state = Vm.STOPPED
    assert next(seen).state == Vm.STOPPED
