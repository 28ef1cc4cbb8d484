"""The agent's side of self-fencing: passes wishes and grants to the guardian, and says how it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ostler_common.errors import FailedPreconditionError, NotFoundError, UnavailableError

from ostler_agent.bounded import BoundedCalls
from ostler_agent.guardian import lease
from ostler_agent.guardian.desk import Desk, State, Status, Wish
from ostler_agent.guardian.hold import ENDS_WITHIN_S
from ostler_agent.guardian.lease import Lease, Place
from ostler_agent.migration.admissions import seconds_since_boot
from ostler_agent.pools.base import Pool

# A guardian that has written nothing for so long is absent.
_FRESH_S = 10.0
_READ_S = 10.0
_WAIT_S = 15.0
_POLL_S = 0.2
_NOBODY = Status(State.ABSENT, "", "", 0, 0.0)
_NOTHING = replace(_NOBODY, state=State.OFF)


class PoolsOfHost(Protocol):
    """The part of `pools.Pools` that is needed here."""

    def get(self, pool_id: str) -> Pool: ...
    def directory(self, pool_id: str) -> Path: ...


@dataclass(frozen=True)
class Guard:
    """How this host's guardian stands, and what the control plane must know of it."""

    status: Status
    ends_within_s: float = ENDS_WITHIN_S


class Guards:
    """supported: whether the VMs of this host's driver can be ended by the guardian."""

    def __init__(
        self,
        host_id: str,
        pools: PoolsOfHost,
        desk: Desk,
        supported: bool,
        clock: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self._host_id = host_id
        self._pools = pools
        self._desk = desk
        self._supported = supported
        self._clock = clock
        self._calls = BoundedCalls()

    def keep(self, pool_id: str, stamp: str) -> Guard:
        """Guards this host by a lease in a pool, or nothing when pool_id is ""; passes on the stamp of a grant.

        A guardian that has ended the VMs keeps its pool until it is given back. Raises FailedPreconditionError
        GUARD_NOT_SUPPORTED, GUARDIAN_ABSENT, LEASE_POOL_UNFIT, and what `Pools.get` raises.
        """
        status = self.status()
        wish = self._desk.wish()
        if pool_id and wish is None and status.state is State.ABSENT:
            raise FailedPreconditionError(
                "no guardian runs on this host (systemctl enable --now ostler-guardian.service)", "GUARDIAN_ABSENT"
            )
        if (wish.pool_id if wish else "") != pool_id and status.state is not State.ENDED:
            self._desk.set_wish(self._wish(pool_id) if pool_id else None)
            # Whatever the guardian wrote before is of its earlier wish.
            return Guard(replace(status, state=State.STARTING, pool_id=pool_id) if pool_id else _NOTHING)
        if stamp and wish is not None:
            self._desk.set_grant(stamp)
        return Guard(status)

    def status(self) -> Status:
        """How the guardian stands now."""
        status = self._desk.status()
        if status is None or not 0 <= self._clock() - status.time <= _FRESH_S:
            return _NOBODY
        return status

    def check_may_start(self) -> None:
        """Waits a moment for the guardian. Raises UnavailableError NOT_GUARDED when this host is to be guarded, and is
        not: a VM must not start here unseen by the guardian."""
        wish = self._desk.wish()
        if wish is None:
            return
        end = time.monotonic() + _WAIT_S
        while not self._guards(wish):
            state = self.status().state
            if state is State.ENDED or time.monotonic() > end:
                raise UnavailableError(
                    "this host is to guard its VMs by a lease, and its guardian is "
                    f"{state} (look at ostler-guardian.service and the pool of the lease)",
                    "NOT_GUARDED",
                    {"state": str(state)},
                )
            time.sleep(_POLL_S)

    def _guards(self, wish: Wish) -> bool:
        status = self.status()
        return status.state is State.GUARDING and status.pool_id == wish.pool_id

    def check_not_used(self, pool_id: str) -> None:
        """Raises FailedPreconditionError POOL_IN_USE for the pool of the lease."""
        wish = self._desk.wish()
        if wish is not None and wish.pool_id == pool_id:
            raise FailedPreconditionError(
                "the pool holds this host's lease (choose another one first: ostler setting set ha.lease.pool)",
                "POOL_IN_USE",
                {"pool": pool_id},
            )

    def read(self, pool_id: str, host_id: str) -> Lease:
        """Another host's lease, read from the storage now. Raises NotFoundError LEASE_NOT_FOUND,
        FailedPreconditionError LEASE_UNREADABLE, and what `Pools.get` raises."""
        place = self._place(pool_id, host_id)
        try:
            found = self._calls.call(pool_id, lambda: lease.read(place), _READ_S)
        except (OSError, TimeoutError) as error:
            raise FailedPreconditionError(
                f"cannot read a lease in {place.directory}: {str(error) or 'its storage hangs'}",
                "LEASE_UNREADABLE",
                {"pool": pool_id},
            ) from None
        if found is None:
            raise NotFoundError(f"host {host_id} has no lease in {place.directory}", "LEASE_NOT_FOUND")
        return found

    def _wish(self, pool_id: str) -> Wish:
        """What to guard, once a lease could be written and read there."""
        if not self._supported:
            raise FailedPreconditionError(
                "the VMs of this host's driver cannot be ended by a guardian: only those of libvirt can",
                "GUARD_NOT_SUPPORTED",
            )
        place = self._place(pool_id, self._host_id)
        probe = replace(place, host_id=f"{self._host_id}.probe")
        try:
            self._calls.call(pool_id, lambda: _prove(probe), _READ_S)
        except (OSError, TimeoutError) as error:
            raise _unfit(place.directory, str(error) or "its storage hangs") from None
        return Wish(pool_id, str(place.directory), place.mark, self._host_id)

    def _place(self, pool_id: str, host_id: str) -> Place:
        pool = self._pools.get(pool_id)
        directory = self._pools.directory(pool_id)
        if not pool.shared:
            raise _unfit(directory, "no other host sees this pool")
        return Place(directory, pool.fingerprint, host_id)


def _prove(place: Place) -> None:
    """Raises OSError unless a lease can be written and is read again."""
    probe = Lease("probe", 1)
    try:
        lease.write(place, probe)
        if lease.read(place) != probe:
            raise OSError("it gives back something else than was written")
    finally:
        (place.directory / place.name).unlink(missing_ok=True)


def _unfit(directory: Path, reason: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{directory} cannot hold a lease: {reason} (choose a pool of type nfs or shared-mount-point on storage that "
        "can be read without the page cache)",
        "LEASE_POOL_UNFIT",
        {"path": str(directory)},
    )
