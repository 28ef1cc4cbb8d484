"""Hundreds of plans are made here: the long search for the least imbalance is cut short."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ostler_control.drs import improving


@pytest.fixture(autouse=True, scope="session")
def _short_search() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(improving, "_WORK", 1_000_000)
    yield
    patch.undo()
