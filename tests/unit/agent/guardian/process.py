"""A guardian's process, with a short time to hold: the real loop and files, and processes in the place of QEMUs."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from ostler_agent.guardian import hold, loop
from ostler_agent.guardian.loop import Guardian
from ostler_agent.guardian.run import serve
from ostler_agent.hypervisors.libvirt.ending import QemuEnder
from ostler_agent.migration.admissions import seconds_since_boot

from tests.unit.agent.guardian.place import desk

HOLD_S = 3.0

if __name__ == "__main__":
    root = Path(sys.argv[1])
    hold.HOLD_S, loop.RENEW_S = float(sys.argv[2]), 0.1
    serve(Guardian(desk(root), QemuEnder(root / "libvirt"), seconds_since_boot, "boot"), threading.Event())
