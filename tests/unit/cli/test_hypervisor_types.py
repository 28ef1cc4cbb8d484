"""How `ostler hypervisor` shows types."""

from __future__ import annotations

import json

import pytest
from ostler.control.v1 import hypervisor_pb2 as pb
from ostler.types.v1 import volume_pb2
from ostler_control.cli.commands.hypervisor import VIEW
from ostler_control.cli.output import Listing, print_list, print_one

ROW = pb.HypervisorType(
    type="custom",
    display_name="Firecracker",
    template_formats=[volume_pb2.DISK_FORMAT_RAW],
    functions=["direct-download", "reboot"],
    pool_types=["local"],
    host_count=3,
    up_count=2,
    allowed=True,
    conflicts=["hosts differ in functions (h1: reboot; h2: none)"],
)


def test_types_are_listed_with_what_they_support(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(VIEW, [ROW], Listing("table"))
    shown = "".join(capsys.readouterr().out.split())  # cells fold anywhere
    for word in ("Firecracker", "custom", "2/3", "raw", "direct-download", "reboot"):
        assert word in shown
    print_list(VIEW, [ROW], Listing("name"))
    assert capsys.readouterr().out == "custom\n"
    print_list(VIEW, [ROW], Listing("json"))
    assert json.loads(capsys.readouterr().out)[0]["functions"] == ["direct-download", "reboot"]


def test_one_type_is_shown_with_its_conflicts(capsys: pytest.CaptureFixture[str]) -> None:
    print_one(VIEW, ROW, "table")
    shown = " ".join(capsys.readouterr().out.split())
    assert "pool types local" in shown
    assert "hosts differ in functions" in shown
