"""What packages are built of."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from systemd import packages

VENDOR = Path("control/ostler_control/web/static/vendor")
COPYRIGHT = Path(packages.__file__).parent / "debian" / "copyright"


def test_packages_have_what_is_written_and_nothing_that_is_generated() -> None:
    found = set(packages.sources())
    assert Path("common/ostler/client/__init__.py") in found
    assert Path("control/ostler_control/web/templates/base.html") in found
    assert Path("common/ostler/control/v1/vm_pb2.py") not in found
    assert Path("common/ostler/py.typed") not in found


def test_the_licenses_of_scripts_that_come_from_others_are_stated() -> None:
    vendored = [path for path in packages.sources() if path.is_relative_to(VENDOR) and path.suffix in {".js", ".css"}]
    assert len(vendored) > 10
    lines = re.findall(r"^Files: (.*)$", COPYRIGHT.read_text(), re.MULTILINE)
    stated = [pattern for line in lines for pattern in line.split() if pattern != "*"]
    for path in vendored:
        assert any(fnmatch.fnmatch(str(path), pattern) for pattern in stated), f"debian/copyright lacks {path}"
