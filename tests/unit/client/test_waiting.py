"""Waiting on operations."""

from __future__ import annotations

import pytest
from google.longrunning import operations_pb2 as lro
from ostler.client import DeadlineExceededError, NotFoundError, ResourceExhaustedError, UnavailableError, operations
from ostler.client.client import Client
from ostler.client.reaching import reached
from ostler.control.v1.host_pb2 import Host
from ostler.control.v1.operation_pb2 import OperationMetadata
from ostler.control.v1.vm_pb2 import CreateVmRequest, Vm
from ostler_common import errors

from tests.fakes.control import Control


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "POLL_S", 0.01)


def create(client: Client) -> lro.Operation:
    return client.vms.CreateVm(CreateVmRequest(name="web-1"))


def test_wait_returns_what_the_operation_changed(control: Control, client: Client) -> None:
    vm = client.wait(create(client), Vm)
    assert (vm.name, vm.host_name) == ("web-1", "h2")


def test_wait_tells_the_progress(control: Control, client: Client) -> None:
    told: list[OperationMetadata] = []
    client.wait(create(client), Vm, on_progress=told.append)
    assert [(m.progress.phase, m.progress.percent) for m in told] == [("placing", 10), ("copying template", 60)]


def test_wait_asks_often_only_for_progress(control: Control, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "POLL_S", 0.25)
    asked: list[int] = []
    answer = client.operations.WaitOperation

    def noted(request: lro.WaitOperationRequest, timeout: float) -> lro.Operation:
        asked.append(request.timeout.ToMilliseconds())
        assert timeout > asked[-1] / 1000 + 1  # the server answers in time
        return answer(request, timeout=timeout)

    monkeypatch.setattr(client.operations, "WaitOperation", noted)
    client.wait(create(client), Vm, on_progress=lambda progress: None)
    assert set(asked) == {250}
    asked.clear()
    control.steps = 0
    client.wait(create(client), Vm)
    assert set(asked) == {10_000}
    asked.clear()
    control.steps = 0
    client.wait(create(client), Vm, timeout_s=3)
    assert 2000 < asked[0] <= 3000


def test_wait_raises_what_the_operation_ended_with(control: Control, client: Client) -> None:
    control.outcome = ResourceExhaustedError("no host fits: 3 lack memory", "NO_FEASIBLE_HOST")
    with pytest.raises(ResourceExhaustedError) as caught:
        client.wait(create(client), Vm)
    assert caught.value.reason == "NO_FEASIBLE_HOST"
    assert caught.value.__notes__ == ["operation: op-1"]


def test_wait_ends_and_the_operation_continues(control: Control, client: Client) -> None:
    control.forever = True
    with pytest.raises(DeadlineExceededError) as caught:
        client.wait(create(client), Vm, timeout_s=0)
    assert (caught.value.reason, caught.value.metadata) == ("OPERATION_UNFINISHED", {"operation": "op-1"})
    assert not control.cancelled


def test_wait_for_an_answer_of_another_type(control: Control, client: Client) -> None:
    with pytest.raises(TypeError, match=r"vm\.create web-1 answers with ostler\.control\.v1\.Vm, not Host"):
        client.wait(create(client), Host)


def test_a_call_is_repeated_while_the_control_plane_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostler.client.reaching.PAUSE_S", 0.0)
    outcomes: list[errors.OstlerError] = [
        errors.UnavailableError("away", "RPC"),
        errors.CancelledError("it stops", "RPC"),
        errors.DeadlineExceededError("it hangs", "RPC"),
    ]
    silences: list[None] = []

    def call() -> str:
        if outcomes:
            raise outcomes.pop(0)
        return "back"

    assert reached(call, lambda: silences.append(None)) == "back"
    assert len(silences) == 3


@pytest.mark.usefixtures("impatient")
def test_a_control_plane_that_stays_away_is_given_up() -> None:
    calls: list[None] = []

    def call() -> None:
        calls.append(None)
        raise UnavailableError("away", "RPC")

    with pytest.raises(UnavailableError):
        reached(call)
    assert calls


def test_other_errors_are_not_repeated() -> None:
    calls: list[None] = []

    def call() -> None:
        calls.append(None)
        raise NotFoundError("there is no VM web-1", "VM_NOT_FOUND")

    with pytest.raises(NotFoundError):
        reached(call)
    assert len(calls) == 1
