"""Agents in memory that are killed answer as real ones do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from ostler.types.v1 import job_pb2, volume_pb2
from ostler_agent.jobs import JobContext

from tests.fakes.life import Life

KIND = "volume.create"
REQUEST = volume_pb2.VolumeInfo()


def run(life: Life, begins: threading.Event, goes_on: threading.Event, done: list[str]) -> None:
    """Begins a job that waits before its work."""
    number = life.number
    life.knows(KIND)

    def work(job: JobContext) -> volume_pb2.VolumeInfo:
        done.append(job.operation_id)
        return volume_pb2.VolumeInfo(format=volume_pb2.DISK_FORMAT_QCOW2)

    def waits(job: JobContext) -> object:
        begins.set()
        assert goes_on.wait(10)
        return life.do(number, job, work)

    next(life.jobs.run(job_pb2.OperationRef(id="o", attempt=1), KIND, REQUEST, waits))  # type: ignore[arg-type]


@pytest.mark.parametrize("worked", [True, False])
def test_a_killed_agent_knows_what_was_done(tmp_path: Path, worked: bool) -> None:
    life, begins, goes_on, done = Life(tmp_path), threading.Event(), threading.Event(), list[str]()
    run(life, begins, goes_on, done)
    assert begins.wait(10)
    if worked:
        life.do(life.number, JobContext("o"), lambda job: volume_pb2.VolumeInfo(format=volume_pb2.DISK_FORMAT_QCOW2))
    life.end()
    goes_on.set()
    life.begin()
    final = life.jobs.get("o")
    assert (final.state == job_pb2.JobUpdate.SUCCEEDED) is worked
    assert ("INTERRUPTED" in str(final.error)) is not worked
    assert done == [], "a dead agent does nothing"
