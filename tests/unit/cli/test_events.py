"""`ostler event watch`: lines as events happen, and how to go on afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest
from ostler.client import watching
from ostler.control.v1.event_pb2 import Event, WatchEventsRequest
from ostler_common.errors import UnauthenticatedError

from tests.fakes.control import Control, at
from tests.unit.cli.conftest import PROGRAM, Ostler


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_S", 0.01)


def happen(control: Control) -> None:
    message = "two\nlines \x1b[31m"
    control.events = [
        Event(id=str(number), sequence=number, time=at(number), type="vm.start", actor="ada", message=message)
        for number in (2, 1)
    ]


def test_each_event_is_one_line_that_cannot_steer_a_terminal(control: Control, ostler: Ostler) -> None:
    happen(control)
    control.end = UnauthenticatedError("revoked", "BAD_CERTIFICATE")
    result = ostler("event", "watch", "--after", "0")
    assert result.exit_code == 4
    lines = result.stdout.splitlines()
    assert [line.split()[2:5] for line in lines] == [["vm.start", "-", "ada"]] * 2
    assert "\x1b" not in result.stdout


def test_json_is_one_object_per_line(control: Control, ostler: Ostler) -> None:
    happen(control)
    control.end = UnauthenticatedError("revoked", "BAD_CERTIFICATE")
    result = ostler("event", "watch", "--since", "1000d", "--type", "vm", "-o", "json")
    assert [json.loads(line)["sequence"] for line in result.stdout.splitlines()] == [1, 2]
    request = control.asked[0]
    assert isinstance(request, WatchEventsRequest)
    assert request.HasField("start_time")


def test_since_and_after_exclude_each_other(ostler: Ostler) -> None:
    assert ostler("event", "watch", "--since", "1h", "--after", "3").exit_code == 2


def test_ctrl_c_ends_it_and_tells_how_to_go_on(control: Control, environment: dict[str, str]) -> None:
    happen(control)
    command = [*PROGRAM, "event", "watch", "--after", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert "vm.start" in process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    # Interrupted just after it has printed one, it tells the number before: none is lost.
    assert re.search(r"To continue: ostler event watch --after [12]$", said, re.MULTILINE)
    assert "Traceback" not in said
