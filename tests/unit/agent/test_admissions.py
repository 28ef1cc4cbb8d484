"""Admissions of the sources of incoming migrations."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from ostler_agent.migration.admissions import Admissions, Source

VM, OTHER_VM, H1, H3 = "vm-1", "vm-2", "host-1", "host-3"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_host_is_admitted_for_its_time_only(tmp_path: Path) -> None:
    clock = Clock()
    admissions = Admissions(tmp_path / "run" / "migrations", clock)
    assert not admissions.admits(H1)
    admissions.admit(VM, Source(H1, 60))
    assert admissions.admits(H1)
    assert not admissions.admits(H3)
    clock.now += 59
    assert admissions.admits(H1)
    clock.now += 1
    assert not admissions.admits(H1)


def test_each_migration_has_its_own_admission(tmp_path: Path) -> None:
    admissions = Admissions(tmp_path)
    admissions.admit(VM, Source(H1, 60))
    admissions.admit(OTHER_VM, Source(H1, 60))
    for _ in range(2):
        admissions.remove(VM)
    assert admissions.admits(H1)
    admissions.remove(OTHER_VM)
    assert not admissions.admits(H1)


def test_a_later_migration_of_the_vm_replaces_the_earlier_one(tmp_path: Path) -> None:
    admissions = Admissions(tmp_path)
    admissions.admit(VM, Source(H1, 60))
    admissions.admit(VM, Source(H3, 60))
    assert (admissions.admits(H1), admissions.admits(H3)) == (False, True)


def test_another_process_reads_them_and_no_other_user(tmp_path: Path) -> None:
    directory = tmp_path / "migrations"
    Admissions(directory).admit(VM, Source(H1, 60))
    assert Admissions(directory).admits(H1)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "[]", '{"host_id": "host-1"}', '{"host_id": "host-1", "end_s": "late"}', "\0"])
def test_a_file_that_cannot_be_read_admits_nobody(tmp_path: Path, text: str) -> None:
    admissions = Admissions(tmp_path)
    (tmp_path / f"{VM}.json").write_text(text)
    assert not admissions.admits(H1)
    admissions.admit(OTHER_VM, Source(H3, 60))
    assert admissions.admits(H3)
