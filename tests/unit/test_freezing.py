"""Freezing a guest's file systems: what is recorded, and that a thaw follows whatever the guest does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from ostler_agent.hypervisors.libvirt import freezing, guest_agent
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.spec import Freeze
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError

SESSION = cast(Session, object())
SILENT = UnavailableError("hangs", "GUEST_AGENT_SILENT")
MISSING = FailedPreconditionError("none", "GUEST_AGENT_MISSING")
REFUSED = FailedPreconditionError("no", "GUEST_AGENT_REFUSED")


@dataclass
class FakeGuest:
    """Answers freezes and thaws in order: with a number of file systems, or an error."""

    freezes: list[int | OstlerError]
    thaws: list[int | OstlerError] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def fsFreeze(self) -> int:
        return self._next("freeze", self.freezes)

    def fsThaw(self) -> int:
        return self._next("thaw", self.thaws)

    def _next(self, what: str, answers: list[int | OstlerError]) -> int:
        self.asked.append(what)
        found = answers.pop(0)
        if isinstance(found, OstlerError):
            raise found
        return found


def answer_with(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def asking(session: Session, vm_id: str, what: str, *, timeout_s: int = 5) -> Iterator[FakeGuest]:
        yield guest

    monkeypatch.setattr(guest_agent, "asking", asking)


def copied(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> Freeze:
    answer_with(guest, monkeypatch)
    return freezing.thaw(SESSION, "v", freezing.freeze(SESSION, "v"))


@pytest.mark.parametrize(
    ("guest", "recorded", "asked"),
    [
        (FakeGuest([2], [2]), Freeze(True), ["freeze", "thaw"]),
        (FakeGuest([MISSING]), Freeze(False, "no guest agent is connected"), ["freeze"]),
        (
            FakeGuest([SILENT], [SILENT, 1]),  # it froze after its time
            Freeze(False, "the guest agent did not answer in time"),
            ["freeze", "thaw", "thaw"],
        ),
        (
            FakeGuest([REFUSED], [REFUSED]),
            Freeze(False, "the guest agent refused to freeze the file systems"),
            ["freeze", "thaw"],
        ),
        (FakeGuest([0], [0]), Freeze(False, "the guest agent found no file system to freeze"), ["freeze", "thaw"]),
        (FakeGuest([1], [0]), Freeze(False, "the guest thawed its file systems too early"), ["freeze", "thaw"]),
        (FakeGuest([1], [REFUSED]), Freeze(False, "the guest agent did not confirm the thaw"), ["freeze", "thaw"]),
    ],
)
def test_what_is_recorded(
    monkeypatch: pytest.MonkeyPatch, guest: FakeGuest, recorded: Freeze, asked: list[str]
) -> None:
    assert copied(guest, monkeypatch) == recorded
    assert guest.asked == asked


def test_a_guest_that_hangs_is_waited_for_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "THAW_TIMEOUT_S", 0.0)
    guest = FakeGuest([1], [SILENT] * 100)
    assert copied(guest, monkeypatch) == Freeze(False, "the guest agent did not confirm the thaw")
    assert 1 <= guest.asked.count("thaw") < 5


def test_what_an_earlier_run_left_frozen_is_thawed(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = FakeGuest([], [1])
    answer_with(guest, monkeypatch)
    freezing.thaw_left_frozen(SESSION, "v")
    assert guest.asked == ["thaw"]
