"""Rows of encrypted volumes, and the passphrases that they must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ostler_control.database import transaction
from ostler_control.keys import Keyring, versions
from ostler_control.models import Account, Pool, Volume, new_id


def encrypted_volume(keys: Keyring, name: str = "data") -> Any:
    account = Account.get_or_none() or Account.create(name="acme")
    pool = Pool.get_or_none() or Pool.create(name="p", type="local", scope="host", scope_id=new_id())
    volume_id = new_id()
    with transaction():
        return Volume.create(
            id=volume_id, name=name, account=account, pool=pool, passphrase=keys.create(volume_id), size_bytes=1 << 20
        )


@dataclass
class Vault:
    """Volumes, and the passphrases that they had at first."""

    keys: Keyring
    expected: dict[str, bytes]

    def grow(self, count: int) -> None:
        for _ in range(count):
            volume = encrypted_volume(self.keys, f"v{len(self.expected)}")
            self.expected[volume.id] = self.keys.open(volume).reveal()

    def check(self, keys: Keyring | None = None) -> None:
        found = {row.id: (keys or self.keys).open(row).reveal() for row in Volume.select()}
        assert found == self.expected
        count, broken = versions.verify((keys or self.keys).provider)
        assert (count, broken) == (len(self.expected), [])
