"""`ostler-control run` while its database has no room, or is away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ostler_control import database
from ostler_control.models import db

from tests.fakes.fleet import Fleet
from tests.small_disks import small_disk

# After this systemd starts the service again, see ostler-control.service.
TRIED_AGAIN = 1
# SQLite can be opened, for which it makes an index of 32 KiB, and has no room for what is written.
OPENS = 40 << 10


def start(fleet: Fleet, config: Path, **further: str) -> tuple[int, str]:
    """Exit code of `ostler-control run`, and what it said. config: where to write its configuration."""
    values = {
        "state_dir": str(fleet.config.state_dir),
        "advertise_address": "127.0.0.1",
        "listen": "127.0.0.1:0",
        "enroll_listen": "127.0.0.1:0",
        "metrics_listen": "",
    }
    config.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in (values | further).items()))
    argv = [sys.executable, "-m", "ostler_control.main", "--config", str(config), "run"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")
@pytest.mark.parametrize(("upgraded", "room_bytes"), [(False, 0), (True, OPENS)])
def test_a_start_on_a_full_disk_says_so_and_works_once_there_is_room(
    tmp_path: Path, upgraded: bool, room_bytes: int
) -> None:
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        fleet = Fleet(disk.directory)
        with fleet.running():
            pass
        if upgraded:
            _forget_newest_tables(fleet)
        gap = disk.directory / "gap"
        gap.write_bytes(bytes(room_bytes))
        disk.fill()
        gap.unlink()
        code, said = start(fleet, tmp_path / "control.toml")
        assert "ostler-control: the disk of the control plane's database is full" in said
        assert "Traceback" not in said
        assert code == TRIED_AGAIN
        disk.free()
        with fleet.running():
            pass


def _forget_newest_tables(fleet: Fleet) -> None:
    """The database is as a release before left it, so that the start has to write."""
    database.connect(fleet.config.database)
    with database.session():
        db.execute_sql("DROP TABLE late_start")
        db.execute_sql("DELETE FROM schema_migration WHERE name = '0047_late_start'")
    database.disconnect()


def test_a_start_while_postgresql_is_away_is_tried_again_and_one_without_keys_is_not(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    code, said = start(fleet, tmp_path / "control.toml", database_url="postgresql://ostler@127.0.0.1:1/none")
    assert (code, "PostgreSQL does not answer" in said) == (TRIED_AGAIN, True)
    code, said = start(fleet, tmp_path / "control.toml", state_dir=str(tmp_path / "nothing"))
    assert (code, "ostler-control init" in said) == (3, True)
