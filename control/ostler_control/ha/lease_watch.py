"""When an unchanged lease proves that a host has ended its VMs. Pure.

The host's guardian ends the VMs when no renewal and no grant has begun for some time. Whoever looks at the lease sees a
renewal after it has begun. So when two looks find the same number, the latest renewal that the guardian knows of began
before the end of the first look; and the control plane gives no grant meanwhile. All times are of one monotonic clock,
the observer's. docs/ha.md has the whole argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# For clocks that do not run equally fast, and for whatever nobody thought of.
MARGIN_S = 10.0


@dataclass(frozen=True)
class Look:
    """What a look at the lease found. begun, ended: when the look began and ended."""

    term: str
    number: int
    released: bool
    begun: float
    ended: float


class Verdict(StrEnum):
    """What the looks prove. WAITING: nothing yet; PROVED: the VMs are ended; RENEWED: the host lives; UNGUARDED: nobody
    guards the host by the lease that it told of, so the lease says nothing."""

    WAITING = "waiting"
    PROVED = "proved"
    RENEWED = "renewed"
    UNGUARDED = "unguarded"


@dataclass(frozen=True)
class LeaseWatch:
    """The looks since no more grants are given. term, ends_within_s: as the host told when it was last heard."""

    term: str
    ends_within_s: float
    first: Look | None = None

    @property
    def needed_s(self) -> float:
        """How long the lease must be unchanged."""
        return self.ends_within_s + MARGIN_S

    def look(self, look: Look) -> tuple[LeaseWatch, Verdict]:
        """The watch after one more look, and what it proves."""
        if look.released or look.term != self.term:
            return self, Verdict.UNGUARDED
        if self.first is None:
            return LeaseWatch(self.term, self.ends_within_s, look), Verdict.WAITING
        if look.number != self.first.number:
            return self, Verdict.RENEWED
        return self, Verdict.PROVED if look.begun - self.first.ended > self.needed_s else Verdict.WAITING
