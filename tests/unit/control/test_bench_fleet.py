"""The measurement of a fleet, at a small size: it measures everything, and loses nothing."""

from __future__ import annotations

import pytest

from tests.bench.fleet.__main__ import main
from tests.bench.fleet.measure import Sizes, measure

_SMALL = Sizes(hosts=4, vms=12, creates=6, rest_s=1.0, passes=1)
# Goals that hold at any size and speed.
_ALWAYS = ("creates refused or failed", "created VMs lost", "hosts over their capacity or wrongly added up")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_small_fleet_is_measured_and_loses_nothing(kind: str) -> None:
    lines = {line.what: line for line in measure(kind, _SMALL)}
    assert {"4 hosts up after", "all 12 VMs in pages of 500", "CPU at rest", "threads at rest"} <= set(lines)
    assert [lines[what].figure for what in _ALWAYS] == ["0", "0", "0"]
    assert lines["VMs created, 6 at once"].figure != "0.0 a second"


def test_help_names_the_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in ("--hosts", "--vms", "--creates", "--replicas", "--database"))
