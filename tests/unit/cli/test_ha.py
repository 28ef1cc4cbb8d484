"""`ostler ha status`: what it says of hosts that are to fence themselves."""

from __future__ import annotations

import pytest
from ostler.control.v1 import ha_pb2 as pb
from ostler_control.cli.commands.ha import VIEW


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        (pb.HaStatus.HostStatus(), "no"),
        (pb.HaStatus.HostStatus(self_fencing="guarding"), "yes"),
        (pb.HaStatus.HostStatus(self_fencing="starting"), "NO: starting"),
        (pb.HaStatus.HostStatus(self_fencing="off", self_fencing_error="no pool"), "NO: no pool"),
    ],
)
def test_each_host_says_whether_it_fences_itself(host: pb.HaStatus.HostStatus, shown: str) -> None:
    [head, row] = VIEW.sections[0].rows(pb.HaStatus(hosts=[host]))
    assert dict(zip(head, row, strict=True))["self-fencing"] == shown
