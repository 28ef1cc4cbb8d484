"""How long a host may run VMs without a sign from storage or control plane. Pure: times in, decisions out.

Every time is in seconds of CLOCK_BOOTTIME, which goes on while the machine sleeps and does not change with the date.
A sign counts from the moment when it began, never from the moment when it was noticed: whoever else saw it saw it
later than that. So another machine that waits for longer than `ENDS_WITHIN_S` after the last sign, by its own clock,
knows that the VMs here are ended. docs/ha.md has the whole argument.
"""

from __future__ import annotations

from dataclasses import dataclass

# How long a sign is good for.
HOLD_S = 30.0
# How long ending the VMs may take after that: 5 s until systemd kills a guardian that hangs, the start of the next one,
# and the death of the processes.
END_S = 20.0
ENDS_WITHIN_S = HOLD_S + END_S


@dataclass(frozen=True)
class Hold:
    """A host's right to run VMs. since: when the latest sign began; lost: when the right ended, None while it lasts."""

    since: float
    lost: float | None = None

    def at(self, now: float) -> Hold:
        """The hold at this moment. A clock that went back tells nothing, so the right ends."""
        if self.lost is None and not 0 <= now - self.since <= HOLD_S:
            return Hold(self.since, now)
        return self

    def seen(self, begun: float) -> Hold:
        """The hold after a sign. One that began when the right had ended already does not revive it: a machine that was
        frozen must not begin anew as if nothing had happened."""
        if begun <= self.since:
            return self
        held = self.at(begun)
        return held if held.lost is not None else Hold(begun)

    def granted(self, begun: float) -> Hold:
        """The hold after a grant of the control plane. One that began after the loss gives the right back: the control
        plane knew of the loss."""
        if self.lost is not None and begun > self.lost:
            return Hold(begun)
        return self.seen(begun)
