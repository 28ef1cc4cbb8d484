"""Volume encryption, probed with the real programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler_agent.capabilities import encryption

pytestmark = pytest.mark.host


def test_encryption_is_proved_with_the_real_programs(tmp_path: Path) -> None:
    found = encryption.probe(tmp_path)
    assert [(probe.name, probe.ok, probe.reason) for probe in found] == [
        ("volume-encryption.qemu-img", True, ""),
        ("volume-encryption.cryptsetup", True, ""),
    ]
    assert all(probe.detail[0].isdigit() for probe in found)
    assert list(tmp_path.iterdir()) == []
