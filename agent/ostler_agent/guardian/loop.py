"""The guardian's loop: renew the lease, look for grants, and end the VMs when neither comes.

Nothing here waits for storage, network, libvirt or the agent.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from ostler_agent.guardian.desk import Desk, State, Status, Wish, stamped
from ostler_agent.guardian.hold import Hold
from ostler_agent.guardian.lease import Lease
from ostler_agent.guardian.renewer import Renewer

STEP_S = 0.5
RENEW_S = 2.0
# How long a guardian that is to end tries to say so on the storage, before it ends the VMs instead.
RELEASE_S = 10.0

log = structlog.get_logger(__name__)


class Ender(Protocol):
    """Ends the VMs of this host."""

    def running(self) -> Sequence[str]:
        """Ids of Ostler's VMs that run here."""

    def end(self) -> Sequence[str]:
        """Kills Ostler's VMs at once, without asking anybody; returns the ids of those that it killed."""


class Guardian:
    """Call `step` every STEP_S. clock: seconds since boot; boot_id: of the machine.

    A guardian that was killed goes on where it was: the status says since when it holds, and it checks that before
    anything else.
    """

    def __init__(
        self, desk: Desk, ender: Ender, clock: Callable[[], float], boot_id: str, renewer: Renewer | None = None
    ) -> None:
        self._desk = desk
        self._ender = ender
        self._clock = clock
        self._boot_id = boot_id
        self._renewer = renewer or Renewer(clock)
        self._wish: Wish | None = None
        self._hold: Hold | None = None
        self._on_storage = False
        self._term, self._number = secrets.token_hex(16), 0
        self._asked = float("-inf")
        self._resume()

    def step(self) -> Status:
        """Does what is due now, and returns how it stands. Raises OSError when it cannot write that down."""
        self._take_signs()
        now = self._clock()
        ended: Sequence[str] = ()
        if self._hold is not None:
            self._hold = self._hold.at(now)
            if self._hold.lost is not None:
                ended = self._ender.end()  # before anything that could fail
        self._follow_wish()
        if self._wish and (self._hold is None or self._hold.lost is None) and now - self._asked >= RENEW_S:
            self._renew(self._wish, now)
        status = self._status(now)
        self._desk.set_status(status)
        if ended:
            log.error("neither storage nor control plane was heard: VMs were ended", vms=list(ended))
        return status

    def release(self, pause: Callable[[float], object]) -> None:
        """Says on the storage that nobody guards this host any more. If the storage does not take that in time, ends
        the VMs: another host must never believe in a guardian that is gone."""
        if self._wish is None or self._hold is None:
            return
        if self._hold.at(self._clock()).lost is not None:
            self._ender.end()
            return  # the status stays: the next guardian ends what appears, until the control plane gives the host back
        end = self._clock() + RELEASE_S
        said = False
        while not said and self._clock() < end and self._hold.at(self._clock()).lost is None:
            self._renewer.ask(self._wish.place, Lease(self._term, self._number + 1, released=True))
            pause(STEP_S / 5)
            said = any(done.lease.released for done in self._renewer.done())
        if not said:
            ended = self._ender.end()
            log.error("the storage did not take the end of the lease: VMs were ended", vms=list(ended))
        self._forget()
        self._desk.set_status(self._status(self._clock()))

    def _resume(self) -> None:
        """Goes on from the status of a guardian that was killed."""
        before, wish = self._desk.status(), self._desk.wish()
        if before is None or wish is None or before.boot_id != self._boot_id or before.pool_id != wish.pool_id:
            return
        if before.since < 0:
            return
        self._wish, self._term, self._number = wish, before.term, before.number
        self._hold = Hold(before.since, before.lost if before.lost >= 0 else None)
        self._on_storage = before.state is State.GUARDING

    def _take_signs(self) -> None:
        for done in self._renewer.done():
            if self._wish is None or done.place != self._wish.place or done.lease.term != self._term:
                continue
            self._on_storage = True
            self._hold = self._hold.seen(done.begun) if self._hold else Hold(done.begun)
        moment = stamped(self._desk.grant(), self._term)
        if self._hold is not None and moment is not None and moment <= self._clock():
            before, self._hold = self._hold, self._hold.granted(moment)
            if before.lost is not None and self._hold.lost is None:
                self._on_storage = False  # until the next renewal

    def _follow_wish(self) -> None:
        try:
            wish = self._desk.wish()
        except (OSError, ValueError, TypeError):  # as before, until the agent writes it anew
            return
        if wish == self._wish:
            return
        if self._wish is not None:
            # Best effort: the control plane knows by the new term, or by the state, that the old lease says nothing.
            self._renewer.ask(self._wish.place, Lease(self._term, self._number + 1, released=True))
        self._forget()
        self._wish = wish
        log.info("guarding", pool=wish.pool_id if wish else "nothing")

    def _forget(self) -> None:
        self._wish, self._hold, self._on_storage = None, None, False
        self._term, self._number = secrets.token_hex(16), 0
        self._asked = float("-inf")

    def _renew(self, wish: Wish, now: float) -> None:
        if self._renewer.ask(wish.place, Lease(self._term, self._number + 1)):
            self._number += 1
            self._asked = now

    def _status(self, now: float) -> Status:
        status = Status(self._state(), self._boot_id, self._term, self._number, now)
        if self._wish:
            status = replace(status, pool_id=self._wish.pool_id)
        if self._hold:
            lost = -1.0 if self._hold.lost is None else self._hold.lost
            status = replace(status, since=self._hold.since, lost=lost)
        return status

    def _state(self) -> State:
        if self._wish is None:
            return State.OFF
        if self._hold is not None and self._hold.lost is not None:
            return State.ENDED
        return State.GUARDING if self._on_storage else State.STARTING
