"""What packages are built of."""

from __future__ import annotations

from pathlib import Path

from systemd import packages


def test_packages_have_what_is_written_and_nothing_that_is_generated() -> None:
    found = set(packages.sources())
    assert Path("common/ostler/client/__init__.py") in found
    assert Path("control/ostler_control/web/templates/base.html") in found
    assert Path("common/ostler/control/v1/vm_pb2.py") not in found
    assert Path("common/ostler/py.typed") not in found
