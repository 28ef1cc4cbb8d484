"""Spans: off by default, checked where they come in, free of texts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ostler_common import tracing
from ostler_common.errors import NotFoundError

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
EXPLAIN = [sys.executable, "-c", "from ostler_control.cli.main import main; main()", "explain", "INTERNAL"]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider.get_tracer("test"))
    yield exporter
    tracing.use(None)


def test_without_settings_nothing_is_started_or_imported() -> None:
    code = (
        "import sys; from ostler_common import tracing; assert tracing.enable('x')\n"
        "with tracing.continued('x'), tracing.span('a', b=1): tracing.note(c=2); assert tracing.parent() == ''\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_SERVICE_NAME": "ostler"}, False),
    ],
)
def test_the_standard_settings_say_whether_there_are_traces(environment: dict[str, str], expected: bool) -> None:
    assert tracing.wanted(environment) is expected


def test_spans_lie_within_each_other(spans: InMemorySpanExporter) -> None:
    with tracing.span("outer"), tracing.span("inner"):
        pass
    with tracing.span("next"):
        pass
    inner, outer, after = spans.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert after.context.trace_id != outer.context.trace_id


def test_a_trace_goes_on_in_another_thread(spans: InMemorySpanExporter) -> None:
    def work(parent: str) -> None:
        with tracing.continued(parent), tracing.span("work"):
            pass

    with tracing.span("outer"):
        thread = threading.Thread(target=work, args=(tracing.parent(),))
        thread.start()
        thread.join()
    work_span, outer = spans.get_finished_spans()
    assert work_span.context.trace_id == outer.context.trace_id


def test_the_caller_s_context_is_continued(spans: InMemorySpanExporter) -> None:
    with tracing.continued(PARENT), tracing.span("call"):
        assert tracing.parent().startswith("00-0123456789abcdef0123456789abcdef-")
    [call] = spans.get_finished_spans()
    assert call.parent is not None
    assert (call.parent.span_id, call.parent.is_remote) == (0x0123456789ABCDEF, True)


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "x" * 10_000,
        PARENT + "-more",
        PARENT.upper(),
        PARENT.replace("00-", "01-", 1),
        "00-" + "0" * 32 + "-0123456789abcdef-01",
        "00-0123456789abcdef0123456789abcdef-" + "0" * 16 + "-01",
        PARENT + "\n",
    ],
)
def test_a_malformed_context_is_ignored(spans: InMemorySpanExporter, malformed: str) -> None:
    with tracing.continued(malformed), tracing.span("call"):
        pass
    [call] = spans.get_finished_spans()
    assert call.parent is None


def test_a_call_with_several_contexts_has_none() -> None:
    assert tracing.in_metadata([("traceparent", PARENT)]) == PARENT
    assert tracing.in_metadata([("traceparent", PARENT), ("traceparent", PARENT)]) == ""
    assert tracing.in_metadata([("traceparent", b"\xff")]) == ""
    assert tracing.in_metadata(None) == ""


def test_of_an_error_only_the_reason_is_kept(spans: InMemorySpanExporter) -> None:
    with pytest.raises(NotFoundError), tracing.span("call", operation="1"):
        raise NotFoundError("no VM secret-name", "VM_NOT_FOUND", {"name": "secret-name"})
    with pytest.raises(ValueError, match="secret"), tracing.span("call"):
        raise ValueError("secret-name")
    known, bug = spans.get_finished_spans()
    assert known.attributes == {"ostler.operation": "1", "ostler.reason": "VM_NOT_FOUND"}
    assert bug.attributes == {"ostler.reason": "INTERNAL"}
    assert not known.status.is_ok
    assert "secret" not in known.to_json() + bug.to_json()


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def Export(self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext) -> object:
        for resource in request.resource_spans:
            [service] = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
            self.found += [(service, span.name) for scope in resource.scope_spans for span in scope.spans]
        return pb.ExportTraceServiceResponse()


def test_a_command_exports_its_span_to_the_collector_of_the_settings() -> None:
    collector = _Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
    }
    subprocess.run(EXPLAIN, check=True, capture_output=True, env=environment)
    server.stop(None)
    assert collector.found == [("ostler", "ostler")]
