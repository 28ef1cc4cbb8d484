"""Agents in memory that die in the middle of a job leave what real ones leave, and make the same of it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from ostler.agent.v1 import job_pb2 as agent_job_pb2
from ostler.agent.v1 import job_pb2_grpc, vm_pb2, vm_pb2_grpc, volume_pb2, volume_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_common.errors import from_status

from tests.fakes.working_agent import FakeHost, Fleet

VOLUME = types_volume_pb2.VolumeRef(volume_id="v", pool_id="p", format=types_volume_pb2.DISK_FORMAT_QCOW2)
State = job_pb2.JobUpdate.State


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    fleet = Fleet(tmp_path)
    made = fleet.add_host("h1", "host-1")
    made.pools.add("p")
    yield made
    fleet.stop()


def channel(host: FakeHost) -> grpc.Channel:
    return grpc.insecure_channel(host.address, [("grpc.use_local_subchannel_pool", 1)])


def call(host: FakeHost, method: str, attempt: int) -> job_pb2.JobUpdate:
    """The last that is heard of a job."""
    operation = job_pb2.OperationRef(id="o", attempt=attempt)
    stub: Any
    request: Any
    with channel(host) as opened:
        if method == "CreateVolume":
            stub = volume_pb2_grpc.VolumeServiceStub(opened)  # type: ignore[no-untyped-call,unused-ignore]
            request = volume_pb2.CreateVolumeRequest(operation=operation, volume=VOLUME, size_bytes=1 << 20)
        else:
            stub = vm_pb2_grpc.VmServiceStub(opened)  # type: ignore[no-untyped-call,unused-ignore]
            request = vm_pb2.StartVmRequest(operation=operation, spec=types_vm_pb2.VmSpec(vm_id="vm"))
        last: job_pb2.JobUpdate = list(getattr(stub, method)(request))[-1]
    return last


def after_death(host: FakeHost, method: str, points: int) -> tuple[str, str]:
    """How a job ended whose agent died at a point of it and started again: its state, and the error's reason."""
    host.life.die_at(points)
    with pytest.raises(grpc.RpcError) as told:
        call(host, method, 1)
    assert told.value.code() is grpc.StatusCode.UNAVAILABLE, "a dead agent says nothing more of its job"
    assert host.life.died.is_set()
    host.kill()
    host.revive()
    with channel(host) as opened:
        stub: Any = job_pb2_grpc.JobServiceStub(opened)  # type: ignore[no-untyped-call,unused-ignore]
        found = next(stub.WatchJob(agent_job_pb2.WatchJobRequest(operation_id="o")))
    return State.Name(found.state), from_status(found.error).reason if found.HasField("error") else ""


def test_a_file_that_is_not_complete_is_deleted(host: FakeHost) -> None:
    assert after_death(host, "CreateVolume", 0) == ("FAILED", "INTERRUPTED")
    assert (host.fleet.parts, host.fleet.files()) == (set(), {})
    assert call(host, "CreateVolume", 2).state == State.SUCCEEDED
    assert host.fleet.files() == {"v": "p"}


def test_a_file_that_was_complete_is_a_volume(host: FakeHost) -> None:
    assert after_death(host, "CreateVolume", 1) == ("SUCCEEDED", "")
    assert host.fleet.files() == {"v": "p"}


def test_a_vm_that_was_defined_does_not_run(host: FakeHost) -> None:
    assert after_death(host, "StartVm", 0) == ("FAILED", "INTERRUPTED")
    assert (set(host.vms), host.runs("vm")) == ({"vm"}, False)
    assert call(host, "StartVm", 2).state == State.SUCCEEDED
    assert host.runs("vm")


def test_a_vm_that_had_started_runs(host: FakeHost) -> None:
    assert after_death(host, "StartVm", 1) == ("SUCCEEDED", "")
    assert host.runs("vm")


def test_keys_that_no_vm_uses_are_gone_after_a_death(host: FakeHost) -> None:
    host.secrets = {"key"}
    host.kill()
    host.revive()
    assert host.secrets == set()
