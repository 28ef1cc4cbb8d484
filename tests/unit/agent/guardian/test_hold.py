"""The timing of self-fencing, without files or processes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from ostler_agent.guardian.hold import END_S, ENDS_WITHIN_S, HOLD_S, Hold


def test_a_hold_lasts_for_its_time_and_is_lost_for_good() -> None:
    held = Hold(100.0)
    assert held.at(100 + HOLD_S).lost is None
    lost = held.at(100.1 + HOLD_S)
    assert lost.lost == 100.1 + HOLD_S
    assert lost.at(101) == lost, "no later look revives it"


def test_a_sign_counts_from_its_beginning() -> None:
    held = Hold(100.0).seen(110.0)
    assert held.at(110 + HOLD_S).lost is None
    assert held.at(110.1 + HOLD_S).lost is not None
    assert held.seen(105.0) == held, "an older one changes nothing"


def test_a_renewal_that_began_too_late_does_not_hide_the_gap() -> None:
    """A machine that was frozen writes its lease at once when it goes on: its VMs are ended all the same."""
    assert Hold(100.0).seen(101 + HOLD_S).lost is not None


def test_after_the_loss_only_a_grant_for_a_later_moment_gives_back() -> None:
    lost = Hold(100.0).at(200.0)
    assert lost.seen(201.0) == lost
    assert lost.granted(199.0) == lost, "the control plane did not know of the loss then"
    assert lost.granted(201.0) == Hold(201.0)


def test_a_clock_that_went_back_ends_the_hold() -> None:
    assert Hold(100.0).at(99.0).lost == 99.0


@dataclass
class Timeline:
    """A host on a line of real time; its clock differs by `offset`. Looks at the lease see `number`.

    visible: when each write came onto the storage, which is some time before the guardian hears so.
    """

    dice: random.Random
    now: float = 0.0
    hold: Hold = field(init=False)
    visible: list[float] = field(default_factory=list)
    writing: tuple[float, float] | None = None
    ended: float | None = None

    def __post_init__(self) -> None:
        self.offset = self.dice.uniform(0, 1e6)
        self.hold = Hold(self.now + self.offset)

    @property
    def number(self) -> int:
        return sum(time <= self.now for time in self.visible)

    def step(self, storage_works: bool) -> None:
        """What the guardian does at this moment."""
        if self.writing and self.now >= self.writing[1]:
            self.hold = self.hold.seen(self.writing[0])
            self.writing = None
        self.hold = self.hold.at(self.now + self.offset)
        if self.hold.lost is not None:
            self.ended = self.ended or self.now
        elif self.writing is None:
            lasts = self.dice.uniform(0, 8) if storage_works else 1e9
            self.writing = (self.now + self.offset, self.now + lasts)
            self.visible.append(self.now + self.dice.uniform(0, lasts))


@pytest.mark.parametrize("seed", range(60))
def test_who_sees_the_lease_unchanged_for_long_enough_finds_no_vm(seed: int) -> None:
    """Random outages and slow writes. The observer's first look ends, and its last one begins, as its clock says."""
    dice = random.Random(seed)
    line = Timeline(dice)
    outage = dice.uniform(0, 60)
    seen, since = -1, 0.0
    while line.now < 400:
        line.step(storage_works=line.now < outage or line.now > outage + 200)
        if line.number != seen:
            seen, since = line.number, line.now
        elif line.now - since > ENDS_WITHIN_S:
            assert line.ended is not None
            assert line.ended <= since + HOLD_S + 1
            return
        line.now += dice.uniform(0.2, 0.9)
    raise AssertionError("the outage was seen by nobody")


@pytest.mark.parametrize("seed", range(30))
def test_a_frozen_guardian_ends_the_vms_with_its_first_step(seed: int) -> None:
    dice = random.Random(seed)
    line = Timeline(dice)
    frozen, thawed = 20.0, 20 + HOLD_S + dice.uniform(9, 500)
    while line.now < thawed + 3:
        line.step(storage_works=True)
        line.now += dice.uniform(0.2, 0.9)
        if frozen < line.now < thawed:
            line.now = thawed
    assert line.ended is not None
    assert line.ended < thawed + 3, "although the storage takes every write again"


def test_there_is_time_for_the_watchdog_and_the_kill() -> None:
    assert ENDS_WITHIN_S == HOLD_S + END_S
    assert END_S >= 5 + 5, "systemd's watchdog and the start of the next guardian"
