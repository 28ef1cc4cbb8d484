"""A rotation of the key-encryption key is killed at each of its points, and every passphrase opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ostler_control.database import transaction
from ostler_control.keys import FileProvider, Keyring, key_file, rotate, versions
from ostler_control.models import Kek, Operation, Volume, new_id

from tests import databases
from tests.fakes.working_agent import wait_until
from tests.sites import MIB, Site, new_site
from tests.unit.control.crashes import are_over, control, reached, record
from tests.unit.control.encrypted_volumes import Vault

pytestmark = pytest.mark.slow

# The point of each try at which it is killed: in the steps version, current, reseal-1 and reseal-2, with their effects
# there and not yet in the journal. A step that the journal knows has one point, another one three.
IN_STEPS = (2, 5, 6, 7)


def filled(site: Site, count: int) -> Vault:
    """Volumes without files: only their passphrases matter here."""
    vault = Vault(site.keys, {})
    for number in range(count):
        volume_id = new_id()
        with transaction():
            volume: Any = Volume.create(
                id=volume_id,
                name=f"n{number}",
                account=site.account,
                pool=site.pools["shared"],
                passphrase=site.keys.create(volume_id),
                size_bytes=MIB,
            )
        vault.expected[volume_id] = site.keys.open(volume).reveal()
    return vault


def test_killed_anywhere_in_a_rotation(tmp_path: Path) -> None:
    """SIGKILL in one step after the other, and then to the end."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        site = new_site(url, tmp_path)
        vault = filled(site, rotate.PASSPHRASES_PER_TRANSACTION + 3)
        operation = record(lambda: rotate.rotate(site.keys, "ada"))
        for number in IN_STEPS:
            with control(site, {operation.id: number}):
                wait_until(lambda: reached(site, operation), 30)
            (tmp_path / "control" / "reached" / operation.id).unlink()
            vault.check(Keyring(FileProvider(tmp_path / "control" / "kek")))
        with control(site, {}):
            wait_until(lambda: are_over([operation]), 30)
        vault.check(Keyring(FileProvider(tmp_path / "control" / "kek")))
        row = Operation.get_by_id(operation.id)
        assert row.state == "succeeded"
        kek_ids = [key.id for key in key_file.read(tmp_path / "control" / "kek")]
        assert len(kek_ids) == 2, "one new version, however often it was begun"
        assert versions.count_passphrases() == {kek_ids[0]: len(vault.expected)}
        assert {kek.operation_id for kek in Kek.select()} == {""}
        site.fleet.stop()
