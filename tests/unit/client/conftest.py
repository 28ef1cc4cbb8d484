"""ostler.client against a control plane of canned answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.client import connect, reaching
from ostler.client.client import Client
from ostler.control.v1 import vm_pb2

from tests.fakes.control import Control, serving


@pytest.fixture(scope="module")
def canned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Control, Path]]:
    with serving(tmp_path_factory.mktemp("control")) as running:
        yield running


@pytest.fixture
def control(canned: tuple[Control, Path]) -> Control:
    """The control plane as new: three VMs."""
    control = canned[0]
    control.__init__(control.issuer)  # type: ignore[misc]  # all of it as new
    for name in ("web-1", "web-2", "web-3"):
        control.vms[name] = vm_pb2.Vm(name=name, host_name="h2", state=vm_pb2.Vm.RUNNING)
    return control


@pytest.fixture
def client(canned: tuple[Control, Path]) -> Iterator[Client]:
    with connect(canned[1]) as client:
        yield client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are repeated at once, and given up at the second failure."""
    monkeypatch.setattr(reaching, "PAUSE_S", 0.0)
    monkeypatch.setattr(reaching, "SILENCE_S", 0.0)
