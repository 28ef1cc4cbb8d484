"""The model: what may be there at the end of a history of calls and answers. Pure.

Each object has one state (a VM: absent, running, stopped or failed; other objects: absent, ready or failed). A call
that succeeded has had its effect; of two such calls, one that began after the other's answer comes after it. A call
without a certain answer may have had its effect, at any time after it began and before a later call could succeed: an
operation holds its object until it ends. A call that was refused had none. An operation that failed was undone, or left
its object failed, and says why.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ABSENT, FAILED = "absent", "failed"
# How long after a client gave up its request may still be on its way.
IN_FLIGHT_S = 20.0


class Outcome(enum.Enum):
    """What the client knows of its call."""

    DONE = "done"
    REFUSED = "refused"  # before it began
    FAILED = "failed"  # its operation ended with an error
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Call:
    """begin, end: monotonic seconds; effect: the object's state after success; reason: of an error, else ""; operation:
    the id of what it began, "" when no answer told it."""

    client: int
    verb: str
    object: str
    begin: float
    end: float
    outcome: Outcome
    effect: str
    reason: str = ""
    operation: str = ""

    @property
    def caller(self) -> str:
        """The user who called."""
        return user_of(self.client)


def user_of(client: int) -> str:
    """A client's user."""
    return f"c{client}"


def allowed(calls: Sequence[Call]) -> set[str]:
    """The states that an object, absent at first, may be in after these calls on it."""
    done = [call for call in calls if call.outcome is Outcome.DONE]
    last = [call for call in done if not any(later.begin > call.end for later in done)]
    states = {call.effect for call in last} or {ABSENT}
    for call in calls:
        if call.outcome is Outcome.UNKNOWN and not any(later.begin > call.end + IN_FLIGHT_S for later in done):
            states |= {call.effect, FAILED}
        elif call.outcome is Outcome.FAILED:
            # It may have ended after a call that it overlapped.
            overlapped = any(other.begin < call.end and call.begin < other.end for other in done if other is not call)
            if overlapped or not last or call.end > max(other.begin for other in last):
                states.add(FAILED)
    return states


def violations(calls: Sequence[Call], final: Mapping[str, str]) -> list[str]:
    """What is not as it was answered. final: object -> state of those that are there at the end."""
    found = [
        f"{call.verb} of {call.object} ended with a bug ({call.reason})" for call in calls if call.reason == "INTERNAL"
    ]
    found += [
        f"{call.verb} of {call.object} failed without a reason"
        for call in calls
        if call.outcome is Outcome.FAILED and not call.reason
    ]
    by_object: dict[str, list[Call]] = {}
    for call in calls:
        by_object.setdefault(call.object, []).append(call)
    for name in sorted(final.keys() - by_object.keys()):
        found.append(f"{name} is there, and nobody made it")
    for name, own in sorted(by_object.items()):
        state, may = final.get(name, ABSENT), allowed(own)
        if state not in may:
            found.append(f"{name} is {state}, and may be {' or '.join(sorted(may))} ({told(own)})")
    return found


def told(calls: Sequence[Call]) -> str:
    """The last calls, for people."""
    return "; ".join(
        f"{call.verb} {call.begin:.2f}-{call.end:.2f} {call.outcome.value} {call.reason}".strip()
        for call in sorted(calls, key=lambda call: call.end)[-6:]
    )
