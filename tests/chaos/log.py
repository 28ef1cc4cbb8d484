"""The audit log as it is: read at rest, and its end kept all the time, as by an auditor outside of the fleet."""

from __future__ import annotations

import threading

from ostler_control import database
from ostler_control.events import verify
from ostler_control.events.chain import Mark
from ostler_control.events.linking import read_chain
from ostler_control.models import Event, Operation
from ostler_control.outage import outage

from tests.chaos.journal import Entry, Work

KEEP_S = 1.0


class Auditor:
    """Keeps the end of the chain every second, while the database answers. marks: what it has kept."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(60)

    def _work(self) -> None:
        while not self._ended.wait(KEEP_S):
            try:
                with database.session():
                    chain = read_chain()
            except Exception as error:
                if outage(error) is None:
                    raise
                continue
            if chain.sequence and (not self.marks or self.marks[-1].sequence != chain.sequence):
                self.marks.append(Mark(chain.sequence, chain.digest))

    def violations(self) -> list[str]:
        """Whether the chain is whole and goes on from all that was kept of it."""
        verdict = verify.verify(self.marks[-1] if self.marks else None)
        found = [f"the audit log is not whole: {verdict.first_break.message}"] if verdict.first_break else []
        digests = {row.sequence: row.digest for row in Event.select(Event.sequence, Event.digest)}
        found += [
            f"event {mark.sequence} has another digest than during the run"
            for mark in self.marks
            if digests.get(mark.sequence) != mark.digest
        ]
        return found


def read() -> tuple[list[Entry], list[Work]]:
    """All events and operations."""
    entries = [
        Entry(
            sequence=row.sequence or 0,
            type=row.type,
            outcome=row.outcome,
            actor=row.actor,
            object=f"{row.resource_type}/{row.resource_name}",
            operation=row.operation_id,
        )
        for row in Event.select().order_by(Event.sequence)
    ]
    works = [
        Work(row.id, row.verb, row.user, f"{row.resource_type}/{row.resource_name}", str(row.state))
        for row in Operation.select()
    ]
    return entries, works
