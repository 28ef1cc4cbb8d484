"""Housekeeping: deletes old records and checks the hosts' sums."""

from __future__ import annotations

import datetime

import structlog

from ostler_control import database, settings
from ostler_control.api import requests
from ostler_control.events import linking
from ostler_control.hosts import absences
from ostler_control.operations import replicas
from ostler_control.scheduling import capacity

log = structlog.get_logger(__name__)


def tidy() -> None:
    """Deletes old events, requests, replicas and absences of VMs; logs every host whose sums differ from its VMs."""
    with database.session():
        gone = linking.prune(datetime.timedelta(days=settings.events.EVENT_RETENTION.get()))
        gone += requests.prune()
        gone += replicas.forget_gone()
        gone += absences.prune()
        if gone:
            log.info("old events, requests, replicas and absences of VMs were deleted", count=gone)
        for drift in capacity.audit():
            log.error(
                "a host's allocated capacity differs from that of its VMs: report this as a bug",
                host=drift.host_name,
                recorded=drift.recorded,
                actual=drift.actual,
            )
