"""The search for passphrases that every fleet ends with: see conftest."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.lab.fleet import Fleet
from tests.lab.secrets import files_holding, guises

pytestmark = pytest.mark.lab
PASSPHRASE = base64.b64encode(bytes(range(32)))


def test_no_passphrase_is_anywhere(fleet: Fleet) -> None:
    fleet.do(fleet.create_volume("for-the-search", "secret-data", 64))
    fleet.watch.remember()
    assert fleet.watch.passphrases
    assert fleet.watch.processes
    assert not fleet.watch.found()
    passphrase = next(iter(fleet.watch.passphrases.values()))
    spilt = fleet.lab.directory / "spilt"
    spilt.write_bytes(passphrase)
    assert fleet.watch.found() == [str(spilt)]
    spilt.unlink()
    fleet.do(fleet.delete_volume("for-the-search"))


@pytest.mark.parametrize(
    "text",
    [PASSPHRASE, base64.b64encode(b"x" + PASSPHRASE), base64.b64encode(b"xy" + PASSPHRASE), bytes(range(32))],
    ids=["raw", "base64", "base64-shifted", "decoded"],
)
def test_the_search_finds_what_is_there(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "clean").write_bytes(b"nothing to see" * 1000)
    (tmp_path / "spilt").write_bytes(b"." * 5_000_000 + text + b".")
    assert [path.name for path in files_holding(guises(PASSPHRASE), tmp_path)] == ["spilt"]
