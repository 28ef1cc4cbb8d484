"""Who calls the API: what the authorization of a call finds out, for handlers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a caller is."""

    ADMIN = "admin"
    MEMBER = "member"
    HOST = "host"


@dataclass(frozen=True)
class Caller:
    """A party that was let in. id: UUID of the user or host; account_id: the user's account, "" for a host."""

    role: Role
    id: str
    name: str
    account_id: str = ""

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN

    @property
    def actor(self) -> str:
        """The caller as events name it: a user's name, or "host/NAME"."""
        return f"host/{self.name}" if self.role is Role.HOST else self.name
