"""Settings of the event log."""

from __future__ import annotations

from ostler_control.settings.kinds import integer
from ostler_control.settings.setting import Setting

EVENT_RETENTION = Setting("event.retention", integer(1, 3650, "days"), "90", "How long events are kept.")

SETTINGS = (EVENT_RETENTION,)
