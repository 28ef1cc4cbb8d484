"""For whom a setting may have a value of its own."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_control.states import Scope

GLOBAL_ONLY = (Scope.GLOBAL,)
PER_ZONE = (Scope.GLOBAL, Scope.ZONE)
PER_CLUSTER = (Scope.GLOBAL, Scope.ZONE, Scope.CLUSTER)
PER_ACCOUNT = (Scope.GLOBAL, Scope.ACCOUNT)


@dataclass(frozen=True)
class At:
    """Where a setting is read: ids, "" where none matters. The zone of a cluster need not be given."""

    zone_id: str = ""
    cluster_id: str = ""
    account_id: str = ""


ANYWHERE = At()
