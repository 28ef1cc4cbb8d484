"""One trace from a command through the control plane's operation to the program that the host's agent starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ostler.agent.v1 import host_pb2_grpc, job_pb2_grpc, pool_pb2_grpc, volume_pb2, volume_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler.types.v1 import volume_pb2 as types
from ostler_agent import process
from ostler_agent.jobs import JobContext, Jobs
from ostler_agent.services.jobs import JobService
from ostler_common import server, tls, tracing
from ostler_control import database
from ostler_control.cli.main import root
from ostler_control.models import Host, Pool

from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import Fleet

SECRET = "a-name-that-nobody-should-read"


class _Volumes(volume_pb2_grpc.VolumeServiceServicer):
    """Creates files with qemu-img, as a job of the agent's."""

    def __init__(self, directory: Path) -> None:
        self.jobs = Jobs(directory / "jobs")
        self.directory = directory

    def CreateVolume(
        self, request: volume_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types.VolumeInfo:
            path = self.directory / f"{SECRET}-{request.volume.volume_id}"
            process.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(request.size_bytes)])
            return types.VolumeInfo(volume_id=request.volume.volume_id, virtual_size_bytes=request.size_bytes)

        return self.jobs.run(request.operation, "volume.create", request, work)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What this process, which is command, control plane and agent at once, records from now on."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider.get_tracer("test"))
    yield exporter
    tracing.use(None)


@pytest.fixture
def fleet(spans: InMemorySpanExporter, tmp_path: Path) -> Iterator[Fleet]:
    """A control plane and one host with a pool."""
    fleet = Fleet(tmp_path)
    with fleet.running() as control:
        profile = tmp_path / "profile.toml"
        profile.write_text(profile.read_text().replace(":0", f":{control.main_port}"))
        row, credentials = fleet.host("h1")
        fake = FakeAgent(credentials)
        volumes = _Volumes(tmp_path)  # type: ignore[abstract]  # nobody calls the others
        running = server.serve(
            "127.0.0.1:0",
            credentials=tls.server_credentials(credentials),
            services={
                "ostler.agent.v1.HostService": lambda s: host_pb2_grpc.add_HostServiceServicer_to_server(fake, s),
                "ostler.agent.v1.PoolService": lambda s: pool_pb2_grpc.add_PoolServiceServicer_to_server(fake, s),
                "ostler.agent.v1.JobService": lambda s: job_pb2_grpc.add_JobServiceServicer_to_server(
                    JobService(volumes.jobs), s
                ),
                "ostler.agent.v1.VolumeService": lambda s: volume_pb2_grpc.add_VolumeServiceServicer_to_server(
                    volumes, s
                ),
            },
            authorize=None,
        )
        try:
            with database.session():
                Host.update(address=f"127.0.0.1:{running.port}").where(Host.id == row.id).execute()
            _eventually(lambda: Host.get_by_id(row.id).state == "up")
            _ostler(fleet, "pool", "create", "p1", "--type", "local", "--path", "/srv/ostler", "--host", "h1")
            with database.session():
                Pool.update(capacity_bytes=1 << 40, available_bytes=1 << 40).execute()
            _ostler(fleet, "offering", "create-disk", "plain")
            yield fleet
        finally:
            for stream in fake.streams:
                stream.put(None)
            running.stop(0).wait()


def _eventually(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while True:
        with database.session():
            if holds():
                return
        assert time.monotonic() < end
        time.sleep(0.05)


def _ostler(fleet: Fleet, *arguments: str) -> Result:
    runner = CliRunner(env={"OSTLER_PROFILE": str(fleet.directory / "profile.toml")})
    result = runner.invoke(root, arguments, prog_name="ostler")
    assert result.exit_code == 0, result.output
    return result


def _by_name(spans: InMemorySpanExporter, trace_id: int) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans() if span.context.trace_id == trace_id}


def test_one_trace_goes_from_the_command_to_the_program(fleet: Fleet, spans: InMemorySpanExporter) -> None:
    spans.clear()
    _ostler(fleet, "volume", "create", "data-1", "--offering", "plain", "--size", "1MiB", "--pool", "p1")
    [command] = [span for span in spans.get_finished_spans() if span.name == "ostler volume create"]
    assert command.parent is None
    found = _by_name(spans, command.context.trace_id)

    def path_of(name: str) -> list[str]:
        names, span = [name], found[name]
        while span.parent is not None:
            [span] = [other for other in found.values() if other.context.span_id == span.parent.span_id]
            names.append(span.name)
        return names[::-1]

    path = path_of("qemu-img")
    step = next(name for name in path if name.startswith("step "))
    assert path == [
        "ostler volume create",
        "ostler.control.v1.VolumeService/CreateVolume",
        "operation volume.create",
        step,
        "ostler.agent.v1.VolumeService/CreateVolume",
        "job volume.create",
        "qemu-img",
    ]
    assert found["qemu-img"].attributes == {"ostler.exit_code": 0}
    assert SECRET not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_commands_are_traces_of_their_own(fleet: Fleet, spans: InMemorySpanExporter) -> None:
    spans.clear()
    _ostler(fleet, "volume", "list")
    _ostler(fleet, "host", "list")
    commands = [span for span in spans.get_finished_spans() if span.name.startswith("ostler ")]
    assert [span.name for span in commands] == ["ostler volume list", "ostler host list"]
    assert len({span.context.trace_id for span in commands}) == 2
