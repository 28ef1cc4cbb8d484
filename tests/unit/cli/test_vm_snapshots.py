"""`ostler vm snapshot`."""

from __future__ import annotations

from typing import Any

import pytest
from ostler.control.v1 import label_pb2
from ostler.control.v1 import vm_snapshot_pb2 as pb

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler


def asked(control: Control, kind: type[Any]) -> Any:
    [request] = control.asked
    assert isinstance(request, kind)
    return request


def test_one_is_taken(control: Control, ostler: Ostler) -> None:
    result = ostler("vm", "snapshot", "create", "web-1", "--name", "whole", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "op-1\n")
    request = asked(control, pb.CreateVmSnapshotRequest)
    assert (request.vm, request.name, len(request.request_id)) == ("web-1", "whole", 36)


def test_one_is_taken_with_memory_and_reverted_with_its_disks_only(control: Control, ostler: Ostler) -> None:
    assert ostler("vm", "snapshot", "create", "web-1", "--memory", "--no-wait").exit_code == 0
    assert asked(control, pb.CreateVmSnapshotRequest).memory
    control.asked.clear()
    assert ostler("vm", "snapshot", "revert", "whole", "--disks-only", "--yes", "--no-wait").exit_code == 0
    assert asked(control, pb.RevertVmRequest).disks_only


def test_they_are_listed_and_shown(control: Control, ostler: Ostler) -> None:
    lines = ostler("vm", "snapshot", "list", "--vm", "web-1").stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "VM", "DISKS", "SIZE", "MEMORY"]
    assert lines[1].split()[:7] == ["whole", "ready", "web-1", "1", "4", "GiB", "no"]
    assert asked(control, pb.ListVmSnapshotsRequest).vm == "web-1"
    shown = ostler("vm", "snapshot", "show", "whole").stdout
    assert "web-1-root" in shown
    assert "whole-root" in shown


@pytest.mark.parametrize(("verb", "kind"), [("revert", pb.RevertVmRequest), ("delete", pb.DeleteVmSnapshotRequest)])
def test_what_cannot_be_undone_wants_to_be_confirmed(
    control: Control, ostler: Ostler, verb: str, kind: type[Any]
) -> None:
    assert ostler("vm", "snapshot", verb, "whole", "--no-wait").exit_code == 2
    assert control.asked == []
    assert ostler("vm", "snapshot", verb, "whole", "--yes", "--no-wait").exit_code == 0
    assert asked(control, kind).vm_snapshot == "whole"


def test_they_are_labeled_and_found_by_labels(control: Control, ostler: Ostler) -> None:
    assert ostler("vm", "snapshot", "label", "whole", "keep=yes", "old-").exit_code == 0
    request = asked(control, label_pb2.UpdateLabelsRequest)
    assert (request.vm_snapshot, dict(request.set), list(request.remove)) == ("whole", {"keep": "yes"}, ["old"])
    control.asked.clear()
    assert ostler("vm", "snapshot", "list", "-l", "keep").exit_code == 0
    assert asked(control, pb.ListVmSnapshotsRequest).selector == "keep"


def test_a_schedule_is_made(control: Control, ostler: Ostler) -> None:
    result = ostler("vm", "snapshot", "schedule", "create", "web-1", "--weekly", "--at", "sun 03:30", "--keep", "5")
    assert result.exit_code == 0
    assert "weekly, sun 03:30 UTC" in " ".join(result.stdout.split())
    request = asked(control, pb.CreateVmSnapshotScheduleRequest)
    assert (request.vm, request.interval, request.minute, request.hour, request.day, request.keep) == (
        "web-1", pb.VmSnapshotSchedule.WEEKLY, 30, 3, 7, 5,
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [["--keep", "1"], ["--daily"], ["--daily", "--keep", "0"], ["--daily", "--at", "noon", "--keep", "1"]]
)
def test_a_wrong_schedule_is_not_sent(control: Control, ostler: Ostler, wrong: list[str]) -> None:
    assert ostler("vm", "snapshot", "schedule", "create", "web-1", *wrong).exit_code == 2
    assert control.asked == []
