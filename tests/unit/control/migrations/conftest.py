"""A database for migrations to work on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases


@pytest.fixture
def unmigrated_database(tmp_path: Path) -> Iterator[None]:
    """The models on a SQLite file without tables."""
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        yield
