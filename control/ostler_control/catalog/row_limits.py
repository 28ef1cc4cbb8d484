"""How many rows one account may have where no quota limits it: more than anybody needs, few enough for the database."""

from __future__ import annotations

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


def check_rows(
    model: type[AffinityGroup | Backup | Snapshot | UserData | Vm | VmSnapshot | Volume],
    account_id: str,
    count: int | None = None,
) -> None:
    """Raises ResourceExhaustedError TOO_MANY_OBJECTS when the account has as many rows as it may. count: how many it
    has, where that was read already.

    It locks nothing: calls at the same moment may exceed the limit by a few, which harms nobody.
    """
    limit = MAX_ROWS_PER_ACCOUNT[model]
    if count is None:
        count = model.select().where(model.account == account_id).count()
    if count >= limit:
        raise ResourceExhaustedError(
            f"the account has {limit} {_NOUNS[model]}, the most there may be; delete some that are not used",
            "TOO_MANY_OBJECTS",
            {"limit": str(limit)},
        )
