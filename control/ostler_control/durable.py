"""Makes commits of SQLite outlive a power cut, many at a time.

SQLite would sync its write-ahead log within each commit, while it holds the only write lock: on a disk that takes 5 ms
for it, no more than 200 commits a second. Here the commit writes to the log without a sync, the lock is released, and
one sync makes all commits durable that came before it. A transaction returns only then, as before.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from peewee import OperationalError


@dataclass
class _Batch:
    """Commits that one sync is for. waiting: a lock for each thread that waits, which it is woken by; is_synced: it has
    been tried; failure: and this came of it."""

    waiting: list[threading.Lock] = field(default_factory=list)
    is_synced: bool = False
    failure: OperationalError | None = None


class CommitSync:
    """Syncs the write-ahead log for the threads of this process.

    A sync is for all commits that came before it began. One thread makes it, and wakes each other one when nothing is
    left to wait for, and one of those that came meanwhile: that makes the next.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The commits that come before the next sync begins.
        self._next = _Batch()
        self._running = False

    def wait(self, database: str) -> None:
        """Returns once everything that was committed before is durable. Raises OperationalError when the disk fails: as
        after a failed commit, it is unknown whether the change will be there after a power cut. All commits that the
        failed sync was for fail: a later sync may succeed although the kernel has dropped what it could not write."""
        turn: threading.Lock | None = None
        with self._lock:
            batch = self._next
            if self._running:
                turn = threading.Lock()
                turn.acquire()
                batch.waiting.append(turn)
            self._running = True
        if turn is not None:
            turn.acquire()
        if not batch.is_synced:
            self._sync(batch, database)
        if batch.failure is not None:
            raise OperationalError(str(batch.failure)) from batch.failure

    def _sync(self, batch: _Batch, database: str) -> None:
        """Makes the sync for a batch, the next one until now."""
        with self._lock:
            self._next = _Batch()
        batch.failure = OperationalError("the write-ahead log was not synced")  # unless it is below
        try:
            _sync(f"{database}-wal")
            batch.failure = None
        except OperationalError as error:
            batch.failure = error
        finally:
            batch.is_synced = True
            with self._lock:
                following = self._next.waiting
                self._running = bool(following)
                woken = [*batch.waiting, *following[:1]]
                del following[:1]
            for turn in woken:
                turn.release()


def _sync(log: str) -> None:
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
