"""The audit log against the history: each call that was received is there with its caller and its end. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.history import Call, Outcome

STARTED, SUCCEEDED = "started", "succeeded"
ENDS = frozenset({SUCCEEDED, "failed", "cancelled"})


@dataclass(frozen=True)
class Entry:
    """An event. operation: its id, or ""; object: like a call's."""

    sequence: int
    type: str
    outcome: str
    actor: str
    object: str
    operation: str


@dataclass(frozen=True)
class Work:
    """An operation as it is recorded. state: in lower case."""

    id: str
    verb: str
    user: str
    object: str
    state: str


def violations(calls: Sequence[Call], entries: Sequence[Entry], works: Sequence[Work]) -> list[str]:
    """What the log does not tell, or tells and was not."""
    by_operation: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_operation[entry.operation].append(entry)
    known = {work.id: work for work in works}
    callers = {call.caller for call in calls}
    found = [
        f"event {entry.sequence} ({entry.type} of {entry.object}) is of no call"
        for entry in by_operation.pop("", [])
        if entry.actor in callers
    ]
    for operation in by_operation.keys() - known.keys():
        first = by_operation[operation][0]
        found.append(f"event {first.sequence} ({first.type} of {first.object}) is of an operation that is not there")
    for work in works:
        found += _untold(work, by_operation[work.id])
    return found + _unlike(calls, known, callers)


def _untold(work: Work, own: Sequence[Entry]) -> list[str]:
    """What the events of an operation do not tell of it."""
    what = f"operation {work.id} ({work.verb} of {work.object}, by {work.user})"
    told = [entry for entry in own if entry.type == work.verb]
    begun = [entry for entry in told if entry.outcome == STARTED]
    ends = [entry for entry in told if entry.outcome in ENDS]
    found = [f"{what} has an event by {entry.actor}" for entry in told if entry.actor != work.user]
    found += [f"{what} has an event of {entry.object}" for entry in told if entry.object != work.object]
    if len(begun) != 1:
        found.append(f"{what} has {len(begun)} events of its start")
    if work.state not in ENDS:
        return found
    if [entry.outcome for entry in ends] != [work.state]:
        found.append(f"{what} is {work.state}, and its events say {', '.join(entry.outcome for entry in ends)}")
    return found


def _unlike(calls: Sequence[Call], known: Mapping[str, Work], callers: set[str]) -> list[str]:
    """What the calls and the operations do not have in common."""
    found, answered = [], set()
    for call in calls:
        if not call.operation:
            continue
        work = known.get(call.operation)
        what = f"{call.verb} of {call.object} by {call.caller}"
        if work is None:
            found.append(f"{what}: its operation {call.operation} is not there")
            continue
        if (work.verb, work.object, work.user) != (call.verb, call.object, call.caller):
            found.append(f"{what}: its operation is {work.verb} of {work.object} by {work.user}")
        if call.operation in answered:
            found.append(f"{what}: its operation is an earlier call's")
        answered.add(call.operation)
        succeeded = {Outcome.DONE: True, Outcome.FAILED: False}.get(call.outcome)
        if succeeded is not None and succeeded is not (work.state == SUCCEEDED):
            found.append(f"{what} was told {call.outcome.value}, and its operation is {work.state}")
    # Those whose answer was lost are known by what they wanted.
    lost = Counter(
        (call.caller, call.verb, call.object)
        for call in calls
        if call.outcome is Outcome.UNKNOWN and not call.operation
    )
    unclaimed = Counter(
        (work.user, work.verb, work.object)
        for work in known.values()
        if work.user in callers and work.id not in answered
    )
    for (user, verb, name), count in sorted((unclaimed - lost).items()):
        found.append(f"{count} operations {verb} of {name} by {user} are of no call")
    return found
