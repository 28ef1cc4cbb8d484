"""Notices that a key is gone from where it is stored, while this process still has it in memory.

Until the next restart everything works, and after it nothing would: so an admin must hear of it now.
"""

from __future__ import annotations

import structlog
from ostler_common.errors import FailedPreconditionError

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.keys.providers import KeyProvider
from ostler_control.keys.versions import count_passphrases, is_lost
from ostler_control.models import Kek

log = structlog.get_logger(__name__)


class KeyWatch:
    """Compares the versions that passphrases need with those that are stored, one check after the other."""

    def __init__(self, provider: KeyProvider) -> None:
        self._provider = provider
        self.missing: frozenset[str] = frozenset()

    def check(self) -> frozenset[str]:
        """Ids of the needed versions that a restart would not find; records an event when one is lost or restored.

        Raises OstlerError when the provider cannot be asked: then nothing is known.
        """
        missing = self._missing()
        for kek_id in sorted(missing - self.missing):
            log.error("a key-encryption key is gone from where it is stored", key=kek_id)
            _record("key.lost", kek_id, "not stored any more: restore it before the control plane restarts")
        for kek_id in sorted(self.missing - missing):
            _record("key.restored", kek_id, "stored again")
        self.missing = missing
        return missing

    def _missing(self) -> frozenset[str]:
        try:
            stored = self._provider.stored_versions()
        except FailedPreconditionError as error:
            if not is_lost(error):
                raise
            stored = []
        with session():
            needed = {kek.id for kek in Kek.select().where(Kek.current)} | set(count_passphrases())
        return frozenset(needed.difference(stored))


def _record(event_type: str, kek_id: str, message: str) -> None:
    with transaction():
        events.record(event_type, events.Outcome.NOTICED, events.SYSTEM, "key", kek_id, kek_id, message)
