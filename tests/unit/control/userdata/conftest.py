"""One cloud-init for all tests of user data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud_init import CloudInit, cloud_init_process


@pytest.fixture(scope="session")
def cloud_init() -> Iterator[CloudInit]:
    with cloud_init_process() as running:
        yield running
