"""How an agent in memory is killed and starts again: the jobs under way end where they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import Message
from ostler_agent.jobs import JobContext, Jobs, interrupted
from ostler_agent.journal import Record


class Life:
    """The jobs of an agent, one life after the other. jobs: of the present one.

    What a job does to VMs and volumes, it does at once (`do`): so at a death it has done all of it or nothing, and
    which of both is what the next life finds out, as a real agent does by looking at its host.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kinds: set[str] = set()
        self._results: dict[str, Message | None] = {}
        self.number = 0
        self.jobs = Jobs(self._journal())

    def knows(self, kind: str) -> None:
        """Says that there are jobs of this kind."""
        self._kinds.add(kind)
        self.jobs.on_recover(kind, self._recover)

    def do(self, number: int, job: JobContext, work: Callable[[JobContext], Message | None]) -> Message | None:
        """What a job of the life with this number does. The caller holds the lock under which `end` is called."""
        if number != self.number:
            raise interrupted()
        self._results[job.operation_id] = result = work(job)
        return result

    def end(self) -> None:
        """Kills the agent. What a dead one's threads still write is not what the next one reads."""
        old = self._journal()
        self.number += 1
        new = self._journal()
        new.mkdir(parents=True)
        for path in old.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                (new / path.name).write_bytes(path.read_bytes())

    def begin(self) -> None:
        """Starts the agent again."""
        self.jobs = Jobs(self._journal())
        for kind in self._kinds:
            self.jobs.on_recover(kind, self._recover)
        self.jobs.recover()

    def _journal(self) -> Path:
        return self._directory / str(self.number)

    def _recover(self, record: Record) -> Message | None:
        if record.id not in self._results:
            raise interrupted()
        return self._results[record.id]
