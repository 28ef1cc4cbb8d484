"""The watcher reads the rows of hosts again and again, while it hears them and writes their states itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import peewee
import psycopg
import pytest
from ostler_common.tls import TlsFiles
from ostler_control.fleet import store
from ostler_control.fleet.store import WatchedHost
from ostler_control.fleet.watch import Watch
from ostler_control.fleet.watcher import Watcher
from ostler_control.keys import Keyring
from ostler_control.models import HostState
from ostler_control.trust.revocation import TrustBundle
from playhouse.pool import MaxConnectionsExceeded

HOST = WatchedHost("1", "h1", "h1:1", HostState.CONNECTING)


@dataclass
class Site:
    """A watcher of one host, whose row always says that it is being connected to. written: states put into the row."""

    watching: Watcher
    watch: Watch
    written: list[HostState]

    def rescan(self) -> None:
        async def once() -> None:
            self.watching._rescan_now = asyncio.Event()
            self.watching._rescan_now.set()
            await self.watching._rescan()

        asyncio.run(once())


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    bundle = cast(TrustBundle, object())
    watching = Watcher(TlsFiles(Path(), Path(), Path()), lambda: bundle, cast(Keyring, None))
    watching._bundle = bundle
    watching._watches["1"] = watch = Watch(HOST)
    written: list[HostState] = []
    monkeypatch.setattr(store, "load_interval_s", lambda: 5)
    monkeypatch.setattr(store, "set_state", lambda host, state, reason: written.append(state))

    async def in_database(call: Callable[..., Any], *arguments: Any) -> Any:
        return {"1": HOST} if call is store.hosts else call(*arguments)

    monkeypatch.setattr(watching, "_in_database", in_database)
    return Site(watching, watch, written)


def test_a_state_that_was_set_while_rows_were_read_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is older then."""
    ask = site.watching._in_database

    async def in_database(call: Callable[..., Any], *arguments: Any) -> Any:
        if call is store.hosts:
            await site.watching._set_state(site.watch, HostState.UP, "")
        return await ask(call, *arguments)

    monkeypatch.setattr(site.watching, "_in_database", in_database)
    site.rescan()
    assert site.watch.state is HostState.UP
    assert not site.watch.try_now.is_set()
    assert site.written == [HostState.UP]


def test_a_host_that_joins_again_is_tried_at_once(site: Site) -> None:
    site.watch.state = HostState.DISCONNECTED
    site.rescan()
    assert site.watch.state is HostState.CONNECTING
    assert site.watch.try_now.is_set()
    assert site.written == []


def test_a_host_that_is_heard_is_up_whoever_changed_its_row(site: Site) -> None:
    """Nothing else would say so again: its reports change nothing."""
    site.watch.state, site.watch.heard = HostState.UP, True
    site.rescan()
    assert site.watch.state is HostState.UP
    assert site.written == [HostState.UP]


def test_the_view_of_a_host_whose_row_did_not_change_is_kept(site: Site) -> None:
    """Else the VMs of all hosts would be copied every few seconds."""
    before = site.watch.view()
    site.rescan()
    assert site.watch.view() is before
    site.watch.host = replace(HOST, name="h0")
    site.rescan()
    assert site.watch.view().name == "h1"


def test_a_transaction_that_postgresql_ended_is_tried_again() -> None:
    """As when the control plane's machine stood still: what a host told must not be lost with its stream."""
    watching = Watcher(TlsFiles(Path(), Path(), Path()), lambda: cast(TrustBundle, object()), cast(Keyring, None))
    left = [
        peewee.InternalError(psycopg.errors.IdleInTransactionSessionTimeout("terminating connection")),
        MaxConnectionsExceeded("Exceeded maximum connections."),
    ]

    def ask() -> str:
        if left:
            raise left.pop()
        return "answer"

    assert asyncio.run(watching._in_database(ask)) == "answer"
    assert left == []


def test_a_host_whose_watch_ended_by_a_bug_is_watched_anew(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Watch] = []

    async def watch(one: Watch) -> None:
        begun.append(one)
        await asyncio.sleep(60)

    async def fail() -> None:
        raise RuntimeError("a bug")

    async def end_and_rescan_twice() -> None:
        site.watch.task = asyncio.create_task(fail())
        site.watching._rescan_now = asyncio.Event()
        for _ in range(2):
            await asyncio.sleep(0)
            site.watching._rescan_now.set()
            await site.watching._rescan()
        await asyncio.sleep(0)

    monkeypatch.setattr(site.watching, "_watch", watch)
    asyncio.run(end_and_rescan_twice())
    assert begun == [site.watching._watches["1"]]
    assert begun != [site.watch]
