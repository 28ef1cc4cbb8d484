"""Jobs on a host whose network goes dead without a word: the call is given up, attached anew, or cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_control.agents import jobs
from ostler_control.models import Host, Vm
from ostler_control.operations import Engine

from tests.fakes.relay import Relay
from tests.fakes.working_agent import Fault
from tests.sites import Site, new_engine, new_site, outcome


@pytest.fixture
def work(sqlite_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Engine]]:
    """A host that proves encryption, behind a relay; silence is noticed ten times sooner than in earnest."""
    monkeypatch.setattr(jobs, "SILENCE_S", 2.0)
    monkeypatch.setattr(jobs, "CANCEL_LIMIT_S", 1.0)
    monkeypatch.setattr("ostler_agent.jobs.HEARTBEAT_S", 0.5)
    site = new_site(sqlite_database, tmp_path)
    Host.update(state="disconnected").where(Host.name != "h1").execute()
    engine = new_engine(tmp_path, unreachable_limit_s=30.0)
    try:
        engine.start()
        yield site, engine
    finally:
        engine.stop()
        engine.agents.close()
        site.fleet.stop()


@pytest.fixture
def relay(work: tuple[Site, Engine]) -> Iterator[Relay]:
    fake = work[0].hosts["h1"]
    between = Relay(fake.port)
    Host.update(address=f"127.0.0.1:{between.port}").where(Host.name == "h1").execute()
    yield between
    between.close()


def test_a_job_begun_on_a_dead_connection_goes_on_when_the_network_is_back(
    work: tuple[Site, Engine], relay: Relay
) -> None:
    site, engine = work
    first = site.record(lambda: site.new_vm("first"))
    assert outcome(engine, first) == ("succeeded", "")  # the channel is open
    relay.cut()
    second = site.record(lambda: site.new_vm("second"))
    time.sleep(1.0)
    relay.heal()  # for new connections only: what is open stays dead
    assert outcome(engine, second, 20) == ("succeeded", "")
    assert len(site.hosts["h1"].vms) == 2


def test_a_connection_that_dies_under_a_job_is_noticed_and_the_job_attached_to_again(
    work: tuple[Site, Engine], relay: Relay
) -> None:
    site, engine = work
    hold = threading.Event()
    fault = site.hosts["h1"].fail("CreateVolume", Fault(hold=hold))
    operation = site.record(lambda: site.new_vm("web"))
    assert fault.reached.wait(10)
    relay.cut()
    relay.heal()
    hold.set()
    assert outcome(engine, operation, 20) == ("succeeded", "")
    assert len(site.fleet.files()) == 1


def test_a_cancel_ends_a_job_on_a_dead_connection_within_seconds(work: tuple[Site, Engine], relay: Relay) -> None:
    site, engine = work
    assert outcome(engine, site.record(lambda: site.new_vm("first"))) == ("succeeded", "")
    relay.cut()
    operation = site.record(lambda: site.new_vm("second"))
    time.sleep(0.5)
    engine.cancel(operation.id)
    begin = time.monotonic()
    row = engine.wait(operation.id, 25)
    assert row.state.is_over
    assert time.monotonic() - begin < 15
    assert Vm.get(Vm.name == "second").state == "failed", "nobody knows what is on the host"
