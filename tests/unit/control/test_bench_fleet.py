"""The measurement of a fleet, at a small size: it measures everything, and loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.fleet.__main__ import main
from tests.bench.fleet.measure import Sizes, measure
from tests.bench.fleet.share import limited

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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes control groups")
def test_a_process_gets_its_share_of_a_core_and_no_more() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            with limited(process.pid, 0.1):
                before_s, begin = _cpu_s(process.pid), time.monotonic()
                time.sleep(2)
                used, took_s = _cpu_s(process.pid) - before_s, time.monotonic() - begin
                process.kill()
                process.wait()
        finally:
            process.kill()
    assert 0 < used <= 0.2 * took_s


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_help_names_the_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in ("--hosts", "--vms", "--creates", "--replicas", "--database", "--share"))
