"""How many statements it takes to hear a host: after a restart of the control plane thousands of them come at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from ostler.agent.v1 import pool_pb2
from ostler_control.fleet import store
from ostler_control.fleet.store import WatchedHost
from ostler_control.models import Host, HostState, Pool, PoolHost
from ostler_control.pools import reach

from tests.fleets import make_fleet
from tests.unit.control.test_create_cost import counted
from tests.unit.control.test_facts import report

# A further one needs a reason. Savepoints and transactions are not counted.
MAX_AT_FIRST, MAX_AGAIN = 20, 8


@pytest.fixture
def hosts(fresh_database: str) -> list[WatchedHost]:
    fleet = make_fleet(3, functions="", template_formats="", capabilities="", state="connecting")
    PoolHost.delete().execute()
    return [WatchedHost(str(host.id), host.name, "", HostState.CONNECTING) for host in fleet.hosts]


def hear(host: WatchedHost, reason: str = "") -> None:
    """What the watcher records of a host that has connected, once."""
    assert store.set_facts(host, "0.1.9", report()) == ""
    store.set_state(host, HostState.UP, "")
    for spec in reach.specs_for(host.host_id):
        answer = pool_pb2.Pool(spec=spec, shared=True, encryption=True, capacity_bytes=2, available_bytes=1)
        reach.record(spec.pool_id, host.host_id, None if reason else answer, reason)


@contextlib.contextmanager
def no_transactions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, nobody may ask for a turn to write."""
    with monkeypatch.context() as patched:
        for module in (store, reach):
            patched.setattr(module, "transaction", lambda **_: pytest.fail("a turn to write was asked for"))
        yield


def test_a_host_that_is_heard_for_the_first_time(hosts: list[WatchedHost], monkeypatch: pytest.MonkeyPatch) -> None:
    hear(hosts[0])
    hear(hosts[1])
    with counted(monkeypatch, {threading.get_ident()}) as seen:
        hear(hosts[2])
    assert len(seen) <= MAX_AT_FIRST, "\n".join(seen)
    assert {(host.state, host.cpus) for host in Host.select()} == {("up", 8)}
    assert PoolHost.select().where(PoolHost.reachable).count() == 3


def test_a_host_that_is_as_it_was_waits_for_nobody_to_write(
    hosts: list[WatchedHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in hosts:
        hear(host)
    with counted(monkeypatch, {threading.get_ident()}) as seen, no_transactions(monkeypatch):
        hear(hosts[0])
    assert len(seen) <= MAX_AGAIN, "\n".join(seen)


def test_a_pool_that_is_lost_and_found_is_written(hosts: list[WatchedHost]) -> None:
    hear(hosts[0])
    for reason in ("not mounted", "gone", ""):
        hear(hosts[0], reason)
        assert [(row.reachable, row.reason) for row in PoolHost.select()] == [(not reason, reason)]
    Pool.update(measure_time=None, available_bytes=0).execute()
    hear(hosts[0])
    assert Pool.get().available_bytes == 1
