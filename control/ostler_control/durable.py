"""Makes commits of SQLite outlive a power cut, many at a time.

SQLite would sync its write-ahead log within each commit, while it holds the only write lock: on a disk that takes 5 ms
for it, no more than 200 commits a second. Here the commit writes to the log without a sync, the lock is released, and
one sync makes all commits durable that came before it. A transaction returns only then, as before.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from peewee import OperationalError


class CommitSync:
    """Syncs the write-ahead log for the threads of this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # How many commits were announced, and how many of them are durable.
        self._announced = 0
        self._durable = 0
        self._running = False

    def wait(self, database: Path) -> None:
        """Returns once everything that was committed before is durable. Raises OperationalError when the disk fails: as
        after a failed commit, it is unknown whether the change will be there after a power cut."""
        with self._changed:
            self._announced += 1
            mine = self._announced
            while self._durable < mine:
                if self._running:
                    self._changed.wait()
                    continue
                self._running, covered = True, self._announced
                self._changed.release()
                try:
                    _sync(database.with_name(f"{database.name}-wal"))
                finally:
                    self._changed.acquire()
                    self._running = False
                    self._changed.notify_all()
                self._durable = max(self._durable, covered)


def _sync(log: Path) -> None:
    try:
        descriptor = os.open(log, os.O_RDWR)
    except FileNotFoundError:
        return  # SQLite has copied it into the database, synced that, and deleted the log
    except OSError as error:
        raise OperationalError(f"disk I/O error: {error}") from error
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        raise OperationalError(f"disk I/O error: {error}") from error
    finally:
        os.close(descriptor)
