"""One setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ostler_control.caller import Role
from ostler_control.settings import values
from ostler_control.settings.kinds import Kind
from ostler_control.settings.scopes import ANYWHERE, GLOBAL_ONLY, At
from ostler_control.states import Scope

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Setting(Generic[T]):
    """A setting. default: as text, like every value on the wire and in the database.

    scopes: where it may have a value; dynamic: whether a change is in force at once, else `description` says when;
    changed_by: the role that may change it;
    accept: from a new value to what is stored, may look at the rest of the database, raises ValueError;
    show: from what is stored to what people see.
    """

    name: str
    kind: Kind[T]
    default: str
    description: str
    scopes: tuple[Scope, ...] = GLOBAL_ONLY
    dynamic: bool = True
    changed_by: Role = Role.ADMIN
    accept: Callable[[str], str] = str
    show: Callable[[str], str] = str

    def get(self, at: At = ANYWHERE) -> T:
        """The value in force at a place: that of the narrowest scope, else the default."""
        return self.kind.parse(in_force([self], at)[0].value)

    def by_cluster(self) -> dict[str, T]:
        """The values of the clusters that have their own or their zone's; under "" the one for all others."""
        found = {"": self.default, **values.of_clusters(self.name)}
        return {cluster_id: self.kind.parse(value) for cluster_id, value in found.items()}


# Any: a setting of whatever type.
AnySetting = Setting[Any]


@dataclass(frozen=True)
class InForce:
    """A setting's value, as text, where it was asked for, and whose it is. scope None: the default."""

    setting: AnySetting
    value: str
    scope: Scope | None = None
    scope_id: str = ""


def in_force(settings: list[AnySetting], at: At = ANYWHERE) -> list[InForce]:
    """These settings with their values at a place."""
    found = values.find([setting.name for setting in settings], at)

    def one(setting: AnySetting) -> InForce:
        for stored in found.get(setting.name, ()):
            if stored.scope in setting.scopes:
                return InForce(setting, stored.value, stored.scope, stored.scope_id)
        return InForce(setting, setting.default)

    return [one(setting) for setting in settings]
