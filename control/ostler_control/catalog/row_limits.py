"""How many rows one account may have where no quota limits it: more than anybody needs, few enough for the database."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ostler_common.errors import ResourceExhaustedError

from ostler_control.models import AffinityGroup, Backup, BaseModel, Snapshot, UserData, Vm, VmSnapshot, Volume

MAX_ROWS_PER_ACCOUNT: Mapping[type[BaseModel], int] = {
    AffinityGroup: 1_000,
    Backup: 50_000,
    Snapshot: 50_000,
    UserData: 1_000,
    Vm: 10_000,
    VmSnapshot: 50_000,
    Volume: 50_000,
}
_NOUNS: Mapping[type[BaseModel], str] = {
    AffinityGroup: "affinity groups",
    Backup: "backups",
    Snapshot: "snapshots",
    UserData: "registered user data",
    Vm: "VMs",
    VmSnapshot: "VM snapshots",
    Volume: "volumes",
}

# With room for this many more rows an account is far from its limit, for so long: no replicas create 500 a second.
_FAR, _INTERVAL_S = 5_000, 10.0
_MAX_ACCOUNTS = 10_000
# By kind of row, account and limit.
_far_until_s: dict[tuple[type[BaseModel], str, int], float] = {}


def check_rows(
    model: type[AffinityGroup | Backup | Snapshot | UserData | Vm | VmSnapshot | Volume], account_id: str
) -> None:
    """Raises ResourceExhaustedError TOO_MANY_OBJECTS when the account has as many rows as it may.

    It locks nothing: calls at the same moment may exceed the limit by a few, which harms nobody. To count 10,000 rows
    takes longer than all else that a creation reads, so an account that is far from its limit is counted now and then.
    """
    limit = MAX_ROWS_PER_ACCOUNT[model]
    key = model, account_id, limit
    if time.monotonic() < _far_until_s.get(key, 0.0):
        return
    count = model.select().where(model.account == account_id).count()
    if count >= limit:
        raise ResourceExhaustedError(
            f"the account has {limit} {_NOUNS[model]}, the most there may be; delete some that are not used",
            "TOO_MANY_OBJECTS",
            {"limit": str(limit)},
        )
    if limit - count >= _FAR:
        if len(_far_until_s) >= _MAX_ACCOUNTS:
            _far_until_s.clear()
        _far_until_s[key] = time.monotonic() + _INTERVAL_S
