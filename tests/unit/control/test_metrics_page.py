"""A running control plane serves its metrics."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from tests.fakes.fleet import Fleet


def test_a_running_control_plane_serves_its_page(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with fleet.running() as control:
        text = urllib.request.urlopen(f"http://127.0.0.1:{control.metrics_port}/metrics").read().decode()
    assert re.search(r'^ostler_certificate_expiry_timestamp_seconds\{kind="control",name="control"\} 1\.', text, re.M)
    assert "ostler_database_up 1.0" in text
