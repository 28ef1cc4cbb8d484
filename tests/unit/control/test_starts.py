"""What a host reports of a VM that this process is starting is compared with no rows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ostler.agent.v1 import host_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.tls import TlsFiles
from ostler_control.fleet.store import WatchedHost
from ostler_control.fleet.watch import Watch
from ostler_control.fleet.watcher import Watcher
from ostler_control.models import HostState, PowerState
from ostler_control.operations import Engine, starts
from ostler_control.operations.starts import is_starting, starting

from tests.sites import Site, outcome


def test_those_that_operations_are_starting_are_known() -> None:
    with starting("vm.create", "a"), starting("vm.stop", "b"):
        with starting("vm.start", "a"):  # another attempt
            assert (is_starting("a"), is_starting("b")) == (True, False)
        assert is_starting("a")
    assert not is_starting("a")
    assert not starts._starting


def test_an_engine_says_which_while_it_runs_an_attempt(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    finish = engine._finish

    def finishing(run: Any, error: Any) -> None:
        seen.append(is_starting(run.resource_id))
        finish(run, error)
        seen.append(is_starting(run.resource_id))

    monkeypatch.setattr(engine, "_finish", finishing)
    operation = site.record(lambda: site.new_vm("a"))
    assert outcome(engine, operation) == ("succeeded", "")
    assert seen == [True, True]
    assert not is_starting(operation.resource_id)


@pytest.mark.parametrize(
    ("kind", "started_here", "compared"),
    [
        (host_pb2.VmEvent.STARTED, True, False),
        (host_pb2.VmEvent.STARTED, False, True),
        (host_pb2.VmEvent.CRASHED, True, True),
        (host_pb2.VmEvent.UNDEFINED, True, True),
    ],
)
def test_only_the_start_that_was_asked_for_marks_no_host(
    tmp_path: Path, kind: host_pb2.VmEvent._Kind.ValueType, started_here: bool, compared: bool
) -> None:
    vm = vm_pb2.VmInfo(vm_id="a", name="a", power_state=vm_pb2.POWER_STATE_RUNNING, managed=True)
    update = host_pb2.HostUpdate(vm_event=host_pb2.VmEvent(kind=kind, vm=vm))
    # Nothing that this event leads to needs trust or keys.
    watcher = Watcher(TlsFiles(tmp_path, tmp_path, tmp_path), lambda: pytest.fail("no"), keys=None)  # type: ignore[arg-type]
    watch = Watch(WatchedHost("h", "h1", "127.0.0.1:1", HostState.UP))
    assert watch.view().vms == {}

    async def hear() -> None:
        watcher._dirty_now = asyncio.Event()
        await watcher._on(watch, update)

    with starting("vm.create", "a" if started_here else "b"):
        asyncio.run(hear())
    assert watcher._dirty == ({"h"} if compared else set())
    found = watch.view().seen("a")
    assert (found is None) == (kind == host_pb2.VmEvent.UNDEFINED)
    assert found is None or found.power_state is PowerState.RUNNING
