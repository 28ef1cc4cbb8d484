"""The watcher reads the rows of hosts again and again, while it hears them and writes their states itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from ostler_common.tls import TlsFiles
from ostler_control.fleet import store, watcher
from ostler_control.fleet.store import WatchedHost
from ostler_control.fleet.watcher import Watcher
from ostler_control.keys import Keyring
from ostler_control.models import HostState
from ostler_control.trust.revocation import TrustBundle

HOST = WatchedHost("1", "h1", "h1:1", HostState.CONNECTING)


@pytest.mark.parametrize("heard_while_reading", [True, False])
def test_a_state_that_was_set_while_rows_were_read_stays(
    monkeypatch: pytest.MonkeyPatch, heard_while_reading: bool
) -> None:
    """What was read is older then. Otherwise somebody else has changed the row, as a host does that joins again."""
    bundle = cast(TrustBundle, object())
    watching = Watcher(TlsFiles(Path(), Path(), Path()), lambda: bundle, cast(Keyring, None))
    watch = watching._watches["1"] = watcher._Watch(HOST)
    watching._bundle = bundle
    written: list[HostState] = []
    monkeypatch.setattr(store, "load_interval_s", lambda: 5)
    monkeypatch.setattr(store, "set_state", lambda host, state, reason: written.append(state))

    async def in_database(call: Callable[..., Any], *arguments: Any) -> Any:
        if call is store.hosts:
            if heard_while_reading:
                await watching._set_state(watch, HostState.UP, "")
            return {"1": HOST}
        return call(*arguments)

    async def rescan() -> None:
        watching._rescan_now = asyncio.Event()
        watching._rescan_now.set()
        await watching._rescan()

    monkeypatch.setattr(watching, "_in_database", in_database)
    if not heard_while_reading:
        watch.state = HostState.UP
    asyncio.run(rescan())
    assert watch.state is (HostState.UP if heard_while_reading else HostState.CONNECTING)
    assert watch.try_now.is_set() is not heard_while_reading
    assert written == ([HostState.UP] if heard_while_reading else [])
