"""The audit log: events, and the hash chain that shows whether somebody has changed them."""

from ostler_control.events.log import SYSTEM, Named, Outcome, done, matching, record

__all__ = ["SYSTEM", "Named", "Outcome", "done", "matching", "record"]
