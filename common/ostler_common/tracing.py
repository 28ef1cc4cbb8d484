"""Traces by OpenTelemetry: off, with nothing of it imported, unless the environment asks for them.

One trace goes from a command through the control plane's operation and its steps to the agent's job and the programs
that it starts. The context travels in gRPC metadata as `traceparent` of W3C Trace Context (version 00). Spans hold
names, ids and codes only: arguments and the texts of errors may hold what nobody else should read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog

from ostler_common.errors import OstlerError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

log = structlog.get_logger(__name__)

HEADER = "traceparent"
_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_tracer: Tracer | None = None
# Not OpenTelemetry's own context: a stream's generator may be closed by another thread, at which that one complains.
_current: ContextVar[Span | None] = ContextVar("span", default=None)


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces: an OTLP endpoint, and no other exporter."""
    return (
        any(environment.get(name) for name in _ENDPOINTS)
        and environment.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"
        and environment.get("OTEL_SDK_DISABLED", "").lower() != "true"
    )


def enable(service: str, timeout_s: int = 10) -> bool:
    """Exports spans by OTLP over gRPC from now on, if the environment asks for it; call it once per process.

    service: the name unless OTEL_SERVICE_NAME has another; timeout_s: of an export, which the end of the process waits
    for. False when traces are asked for and the extra `tracing` is not installed.
    """
    if not wanted(os.environ):
        return True
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return False
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout_s)))
    use(provider.get_tracer("ostler"))
    return True


def enable_in_daemon(service: str) -> None:
    """The same; a missing extra is a line in the log."""
    if not enable(service):
        log.warning("OTEL_* asks for traces, and they are not installed: pip install 'ostler[tracing]'")


def use(tracer: Tracer | None) -> None:
    """Starts spans with this tracer from now on; None: no spans."""
    global _tracer
    _tracer = tracer


def enabled() -> bool:
    """Whether spans are started."""
    return _tracer is not None


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """A span around the block, below the one around it. Of an error it keeps the reason."""
    if _tracer is None:
        yield
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    parent = _current.get()
    context = Context() if parent is None else set_span_in_context(parent, Context())
    started = _tracer.start_span(name, context, attributes={f"ostler.{key}": attributes[key] for key in attributes})
    _current.set(started)
    try:
        yield
    except Exception as error:
        started.set_attribute("ostler.reason", error.reason if isinstance(error, OstlerError) else "INTERNAL")
        started.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        _current.set(parent)
        started.end()


def note(**attributes: str | int) -> None:
    """Adds attributes to the span around."""
    if (current := _current.get()) is not None:
        for key, value in attributes.items():
            current.set_attribute(f"ostler.{key}", value)


def rename(name: str) -> None:
    """Gives the span around a better name."""
    if (current := _current.get()) is not None:
        current.update_name(name)


def parent() -> str:
    """The span around as `traceparent`, "" without one."""
    if (current := _current.get()) is None:
        return ""
    context = current.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@contextmanager
def continued(traceparent: str) -> Iterator[None]:
    """Makes the span of another process or thread the one around the block. One that is malformed is ignored."""
    match = _PARENT.fullmatch(traceparent) if _tracer is not None and len(traceparent) == 55 else None
    if match is None:
        yield
        return
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

    before = _current.get()
    trace_id, span_id, flags = (int(text, 16) for text in match.groups())
    _current.set(NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & 1))))
    try:
        yield
    finally:
        _current.set(before)


def in_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The `traceparent` of a call, "" without one or with several."""
    found = [value for key, value in metadata or () if key == HEADER]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""
