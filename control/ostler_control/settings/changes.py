"""Changing settings."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError, bad_field

from ostler_control import database, events
from ostler_control.models import Account, Cluster, Zone
from ostler_control.settings import values
from ostler_control.settings.registry import find
from ostler_control.settings.scopes import At
from ostler_control.settings.setting import AnySetting
from ostler_control.states import Scope

MAX_LENGTH = 16 << 10


@dataclass(frozen=True)
class Owner:
    """Whose value is meant. id, name: of the zone, cluster or account; "" for the global value."""

    scope: Scope
    id: str = ""
    name: str = ""

    @classmethod
    def of(cls, row: Zone | Cluster | Account) -> Owner:
        """The zone, cluster or account."""
        return cls(Scope(type(row).__name__.lower()), row.id, row.name)

    @property
    def at(self) -> At:
        """Where its value is in force."""
        return At() if self.scope is Scope.GLOBAL else At(**{f"{self.scope}_id": self.id})


GLOBAL = Owner(Scope.GLOBAL)


def change(name: str, value: str, actor: str, owner: Owner = GLOBAL) -> None:
    """Sets a value. Raises NotFoundError, FailedPreconditionError WRONG_SCOPE, InvalidArgumentError INVALID_SETTING."""
    setting = _find_scoped(name, owner)
    value = value.strip()
    if len(value) > MAX_LENGTH:
        raise bad_field("value", f"has more than {MAX_LENGTH} characters", "INVALID_SETTING")
    with database.transaction():
        try:
            setting.kind.parse(value)
            value = setting.accept(value)
        except ValueError as error:
            raise bad_field("value", f"{error} ({name}: {setting.kind.summary})", "INVALID_SETTING") from None
        values.put(name, owner.scope, owner.id, value)
        _record("setting.update", actor, name, owner, f"set to {setting.show(value)}")


def reset(name: str, actor: str, owner: Owner = GLOBAL) -> None:
    """Removes a value, so that the one of the next wider scope is in force. Raises as `change` does."""
    _find_scoped(name, owner)
    with database.transaction():
        if values.remove(name, owner.scope, owner.id):
            _record("setting.reset", actor, name, owner, "reset")


def _find_scoped(name: str, owner: Owner) -> AnySetting:
    setting = find(name)
    if owner.scope not in setting.scopes:
        allowed = ", ".join(setting.scopes)
        raise FailedPreconditionError(
            f"{name} cannot have a value of one {owner.scope} (its scopes: {allowed})",
            "WRONG_SCOPE",
            {"name": name, "scope": str(owner.scope)},
        )
    return setting


def _record(type: str, actor: str, name: str, owner: Owner, message: str) -> None:
    where = "" if owner == GLOBAL else f" for {owner.scope} {owner.name}"
    account_id = owner.id if owner.scope is Scope.ACCOUNT else ""
    events.record(type, events.Outcome.SUCCEEDED, actor, "setting", name, name, message + where, account_id=account_id)
