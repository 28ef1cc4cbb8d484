"""The search for passphrases, when every other test of the lab has run: see conftest."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.lab.fleet import Fleet
from tests.lab.secrets import files_holding, found_in, guises

pytestmark = pytest.mark.lab
PASSPHRASE = base64.b64encode(bytes(range(32)))


def test_no_passphrase_is_anywhere(fleet: Fleet) -> None:
    if not fleet.watch.passphrases:
        fleet.do(fleet.create_volume("for-the-search", "secret-data", 64))
    fleet.watch.remember()
    needles = [form for passphrase in fleet.watch.passphrases.values() for form in guises(passphrase)]
    assert needles
    assert fleet.watch.processes
    assert not [text for text in fleet.watch.processes if found_in(needles, text)]
    assert not list(files_holding(needles, fleet.lab.directory))


@pytest.mark.parametrize(
    "text",
    [PASSPHRASE, base64.b64encode(b"x" + PASSPHRASE), base64.b64encode(b"xy" + PASSPHRASE), bytes(range(32))],
    ids=["raw", "base64", "base64-shifted", "decoded"],
)
def test_the_search_finds_what_is_there(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "clean").write_bytes(b"nothing to see" * 1000)
    (tmp_path / "spilt").write_bytes(b"." * 5_000_000 + text + b".")
    assert [path.name for path in files_holding(guises(PASSPHRASE), tmp_path)] == ["spilt"]
