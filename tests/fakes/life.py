"""How an agent in memory is killed and starts again: the jobs under way end where they are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import Message
from ostler_agent.jobs import JobContext, Jobs, interrupted
from ostler_agent.journal import Record
from ostler_agent.looks import Looks

Recover = Callable[[Record], Message | None]


class Life:
    """The jobs of an agent, one life after the other. jobs: of the present one; died: there is no next one yet.

    An agent dies between two jobs' effects (`end`), or at a point in the middle of one (`die_at`). What is there then
    is what the next life finds out, as a real agent does by looking at its host.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._recoveries: dict[str, Recover | None] = {}
        self._results: dict[str, Message | None] = {}
        self._points_left: int | None = None
        self._in_effect = ""
        self.died = threading.Event()
        self.number = 0
        self.jobs = Jobs(self._journal())
        self.looks = Looks()

    def knows(self, kind: str, recover: Recover | None = None) -> None:
        """Says that there are jobs of this kind. recover: finds out what became of one; None: as it was told before, or
        the agent knows what it has done."""
        if recover is not None or kind not in self._recoveries:
            self._recoveries[kind] = recover
        self.jobs.on_recover(kind, self._recover)

    def do(
        self, number: int, job: JobContext, work: Callable[[JobContext], Message | None], kind: str = ""
    ) -> Message | None:
        """What a job of the life with this number does. The caller holds the lock under which `end` is called."""
        if self.is_over(number):
            raise interrupted()
        self._in_effect = kind if self._recoveries.get(kind) else ""
        try:
            result = work(job)
        finally:
            self._in_effect = ""
        self._results[job.operation_id] = result
        return result

    def point(self) -> None:
        """A point in the middle of an effect at which the agent may die."""
        if not self._in_effect or self._points_left is None:
            return
        if self._points_left > 0:
            self._points_left -= 1
            return
        self.end()
        raise interrupted()

    def die_at(self, points: int | None) -> None:
        """The agent dies once it has passed so many points of effects; None: it does not any more."""
        self._points_left = points

    def is_over(self, number: int) -> bool:
        """Whether the agent of this life is dead: it says nothing more."""
        return self.died.is_set() or number != self.number

    def end(self) -> None:
        """Kills the agent. What a dead one's threads still write is not what the next one reads."""
        old = self._journal()
        self.number += 1
        self._points_left = None
        self.died.set()
        new = self._journal()
        new.mkdir(parents=True)
        for path in old.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                (new / path.name).write_bytes(path.read_bytes())

    def begin(self) -> None:
        """Starts the agent again."""
        self.jobs, self.looks = Jobs(self._journal()), Looks()
        for kind in self._recoveries:
            self.jobs.on_recover(kind, self._recover)
        self.jobs.recover()
        self.died.clear()

    def _journal(self) -> Path:
        return self._directory / str(self.number)

    def _recover(self, record: Record) -> Message | None:
        recover = self._recoveries.get(record.kind)
        if recover is not None:
            return recover(record)
        if record.id not in self._results:
            raise interrupted()
        return self._results[record.id]
