"""`ostler snapshot`, and what `ostler volume` does with snapshots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ostler.control.v1 import snapshot_pb2 as pb
from ostler.control.v1 import volume_pb2

from tests.fakes.control import Control
from tests.unit.cli.completions import complete
from tests.unit.cli.conftest import Ostler


def asked(control: Control, kind: type[Any]) -> Any:
    [request] = control.asked
    assert isinstance(request, kind)
    return request


def test_one_is_taken(control: Control, ostler: Ostler) -> None:
    result = ostler("snapshot", "create", "data-1", "--name", "before", "--pool", "attic", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "op-1\n")
    request = asked(control, pb.CreateSnapshotRequest)
    assert (request.volume, request.name, request.pool, len(request.request_id)) == ("data-1", "before", "attic", 36)


def test_they_are_listed_and_shown(control: Control, ostler: Ostler) -> None:
    result = ostler("snapshot", "list", "--volume", "data-1")
    assert result.stdout.splitlines()[0].split() == ["NAME", "STATE", "VOLUME", "SIZE", "ENCRYPTED"]
    assert result.stdout.splitlines()[1].split() == ["before", "ready", "data-1", "4", "GiB", "yes"]
    assert asked(control, pb.ListSnapshotsRequest).volume == "data-1"
    assert "VM ran" in ostler("snapshot", "show", "before").stdout
    assert json.loads(ostler("snapshot", "show", "before", "-o", "json").stdout)["size_bytes"] == 4 << 30


def test_going_back_asks_first(control: Control, ostler: Ostler) -> None:
    refused = ostler("snapshot", "revert", "before", "--no-wait")
    assert refused.exit_code == 2
    assert control.asked == []
    assert ostler("snapshot", "revert", "before", "--yes", "--no-wait").exit_code == 0
    assert asked(control, pb.RevertVolumeRequest).snapshot == "before"


def test_a_schedule_is_made(control: Control, ostler: Ostler) -> None:
    result = ostler("snapshot", "schedule", "create", "data-1", "--weekly", "--at", "sun 03:30", "--keep", "5")
    assert result.exit_code == 0
    assert "weekly, sun 03:30 UTC" in " ".join(result.stdout.split())
    request = asked(control, pb.CreateSnapshotScheduleRequest)
    assert (request.interval, request.minute, request.hour, request.day, request.keep) == (
        pb.SnapshotSchedule.WEEKLY, 30, 3, 7, 5,
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [[], ["--daily", "--at", "noon"], ["--daily", "--keep", "0"]])
def test_a_wrong_schedule_is_not_sent(control: Control, ostler: Ostler, wrong: list[str]) -> None:
    keep = [] if "--keep" in wrong else ["--keep", "1"]
    assert ostler("snapshot", "schedule", "create", "data-1", *wrong, *keep).exit_code == 2
    assert control.asked == []


def test_volumes_are_made_of_them(control: Control, ostler: Ostler) -> None:
    assert ostler("volume", "create", "data-2", "--no-wait").exit_code == 2
    assert ostler("volume", "create", "data-2", "--snapshot", "before", "--no-wait").exit_code == 0
    request = asked(control, volume_pb2.CreateVolumeRequest)
    assert (request.name, request.snapshot, request.disk_offering, request.size_bytes) == ("data-2", "before", "", 0)


def test_volumes_are_copied(control: Control, ostler: Ostler) -> None:
    assert ostler("volume", "copy", "data-1", "data-2", "--no-wait").exit_code == 0
    request = asked(control, volume_pb2.CopyVolumeRequest)
    assert (request.volume, request.name, request.pool) == ("data-1", "data-2", "")


def test_their_names_complete(control: Control, profile: Path) -> None:
    assert complete(profile, "ostler snapshot delete b") == ["before"]
    assert complete(profile, "ostler volume create x --snapshot ") == ["before"]
