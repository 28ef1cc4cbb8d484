"""A site whose host h1 runs three VMs and has a fence device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ostler_control.ha import devices, priorities, run_agent
from ostler_control.ha.fence_agents import Power
from ostler_control.models import (
    Host,
    Priority,
)
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.fence import FakeDevice
from tests.sites import Site, outcome, site_at_work
from tests.unit.control.ha.place import OK, Clock, new_device, vm


@pytest.fixture
def working(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Site, Engine]]:
    """On SQLite, or on PostgreSQL where the test asks for it."""
    url = f"sqlite:///{tmp_path}/ostler.sqlite"
    if getattr(request, "param", "") == "postgresql":
        server: str = request.getfixturevalue("postgresql")
        url = databases.new_database(server, request.node.originalname[:40])
    with databases.bound(url) as url, site_at_work(url, tmp_path) as working:
        yield working


@pytest.fixture
def engine(working: tuple[Site, Engine]) -> Engine:
    return working[1]


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Site:
    """h3 encrypts too, and h1 runs three VMs in the shared pool: "high", "low" and the unprotected "other"."""
    site, engine = working
    Host.update(volume_encryption=True).execute()
    for name in ("high", "low", "other"):
        operation = site.record(partial(site.new_vm, name, host=site.host("h1"), pool=site.pools["shared"]))
        assert outcome(engine, operation) == OK
    priorities.set_vm(vm("high"), Priority.HIGH, "root")
    priorities.set_offering(site.encrypted, Priority.LOW, "root")
    priorities.set_vm(vm("other"), Priority.OFF, "root")
    return site


@pytest.fixture
def bmc(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """The fence device of h1."""
    fake = FakeDevice(tmp_path / "fence")
    monkeypatch.setattr(run_agent, "_DIRECTORY", fake.directory)
    devices.create(site.host("h1"), new_device(), Power.ON, "root", site.keys)
    return fake


@pytest.fixture
def clock(engine: Engine) -> Clock:
    return Clock(engine.agents)
