"""Who a certificate speaks for: a URI subject alternative name `ostler://KIND/NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What kind of party a certificate speaks for."""

    CONTROL = "control"
    HOST = "host"
    QEMU = "qemu"  # a host's QEMU, towards other QEMUs only: no server of ours lets it in
    USER = "user"


@dataclass(frozen=True)
class Identity:
    """A party: kind and its name (a UUID for hosts, their QEMUs and control planes, a user's name for users)."""

    kind: Kind
    name: str

    def uri(self) -> str:
        return f"ostler://{self.kind}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Identity | None:
        """The identity that a URI names, or None when it is not one of ours."""
        scheme, _, rest = uri.partition("://")
        kind, _, name = rest.partition("/")
        if scheme != "ostler" or kind not in list(Kind) or not name or "/" in name:
            return None
        return cls(Kind(kind), name)
