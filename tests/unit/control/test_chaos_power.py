"""The hunt's hosts lose their power, and their BMCs switch it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.secret import Secret
from ostler_control.ha import run_agent
from ostler_control.ha.fence_agents import Action, Device, Power
from ostler_control.models import FenceDevice
from ostler_control.operations import Engine

from tests.chaos import power
from tests.chaos.power import PASSWORD, Powers
from tests.fakes.working_agent import wait_until
from tests.sites import Site, outcome, site_at_work

BMC = Device("redfish", "h1.bmc.example.org", "ostler", {"plug": "1"})


@pytest.fixture
def work(sqlite_database: str, tmp_path: Path) -> Iterator[tuple[Site, Engine]]:
    with site_at_work(sqlite_database, tmp_path) as found:
        yield found


@pytest.fixture
def site(work: tuple[Site, Engine]) -> Site:
    return work[0]


@pytest.fixture
def powers(work: tuple[Site, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Powers]:
    """h1 runs a VM, and a host that is off stays off."""
    site, engine = work
    monkeypatch.setattr(power, "OFF_S", (3600.0, 3600.0))
    assert outcome(engine, site.record(lambda: site.new_vm("guest", host=site.host("h1")))) == ("succeeded", "")
    found = Powers(site, tmp_path / "bmcs", seed=1)
    monkeypatch.setattr(run_agent, "_DIRECTORY", found.directory)
    yield found
    found.stop()


def runs(site: Site) -> bool:
    return any(vm.running for vm in site.hosts["h1"].vms.values())


def test_a_host_that_loses_its_power_ends_its_vms_and_its_agent(site: Site, powers: Powers) -> None:
    host = site.hosts["h1"]
    powers.cut("h1")
    assert (runs(site), host.secrets, host.life.died.is_set(), host.powered) == (False, set(), True, False)
    assert powers.ended == set(host.vms)
    assert run_agent.ask_power(BMC, Secret(PASSWORD)) is Power.OFF
    assert powers.fenced == 0
    powers.stop()
    assert (runs(site), host.life.died.is_set(), host.powered) == (False, False, True)
    assert run_agent.ask_power(BMC, Secret(PASSWORD)) is Power.ON


def test_a_bmc_says_that_it_has_switched_a_host_off_once_it_is(site: Site, powers: Powers) -> None:
    assert FenceDevice.select().count() == 3
    assert run_agent.ask_power(BMC, Secret(PASSWORD)) is Power.ON
    run_agent.switch(BMC, Secret(PASSWORD), Action.OFF)
    assert not runs(site)
    assert powers.fenced == 1
    run_agent.switch(BMC, Secret(PASSWORD), Action.ON)
    assert not site.hosts["h1"].life.died.is_set()
    assert site.hosts["h2"].powered


def test_a_host_that_is_off_comes_back(site: Site, powers: Powers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "OFF_S", (0.1, 0.2))
    powers.cut("h1")
    wait_until(lambda: site.hosts["h1"].powered)
    wait_until(lambda: not site.hosts["h1"].life.died.is_set())


def test_an_agent_starts_again_when_both_it_and_its_host_may(site: Site, powers: Powers) -> None:
    host = site.hosts["h1"]
    powers.kill_agent("h1")
    assert runs(site), "a VM outlives its agent"
    powers.cut("h1")
    powers.revive_agent("h1")
    assert host.life.died.is_set(), "its host is off"
    powers.stop()
    assert not host.life.died.is_set()
    powers.kill_agent("h1")
    powers.revive_agent("h1")
    assert not host.life.died.is_set()
