"""Makes commits of SQLite outlive a power cut, many at a time.

SQLite would sync its write-ahead log within each commit, while it holds the only write lock: on a disk that takes 5 ms
for it, no more than 200 commits a second. Here the commit writes to the log without a sync, the lock is released, and
one sync makes all commits durable that came before it. A transaction returns only then, as before.
"""

from __future__ import annotations

import os
import threading
from collections import deque

from peewee import OperationalError


class CommitSync:
    """Syncs the write-ahead log for the threads of this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # How many commits were announced, and how many of them a sync has covered.
        self._announced = 0
        self._covered = 0
        # Of the last syncs that failed: which commits each was for, and why.
        self._failures: deque[tuple[range, OperationalError]] = deque(maxlen=100)
        self._running = False

    def wait(self, database: str) -> None:
        """Returns once everything that was committed before is durable. Raises OperationalError when the disk fails: as
        after a failed commit, it is unknown whether the change will be there after a power cut. All commits that the
        failed sync was for fail: a later sync may succeed although the kernel has dropped what it could not write."""
        with self._changed:
            self._announced += 1
            mine = self._announced
            while self._covered < mine:
                if self._running:
                    self._changed.wait()
                    continue
                self._running, before, last = True, self._covered, self._announced
                self._changed.release()
                failure = None
                try:
                    _sync(f"{database}-wal")
                except OperationalError as error:
                    failure = error
                finally:
                    self._changed.acquire()
                    self._running = False
                    self._changed.notify_all()
                self._covered = last
                if failure is not None:
                    self._failures.append((range(before + 1, last + 1), failure))
            for commits, failure in self._failures:
                if mine in commits:
                    raise OperationalError(str(failure)) from failure


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
