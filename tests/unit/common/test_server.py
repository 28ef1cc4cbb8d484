"""The server's gate around all four kinds of call, its TLS, and what clients see of errors."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf import wrappers_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from ostler_common import channel, errors, pki, server
from ostler_common.identity import Identity, Kind
from ostler_common.tls import Peer, TlsFiles, server_credentials

from tests.fakes.certificates import ThrowawayCa

SERVICE = "ostler.test.Echo"
CONTROL = Identity(Kind.CONTROL, "c1")
HOST = Identity(Kind.HOST, "5b6c9a0c-0000-4000-8000-000000000001")
METHODS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Text = wrappers_pb2.StringValue


def act(text: str, context: grpc.ServicerContext) -> Text:
    if text == "known":
        raise errors.bad_field("name", "is taken", "NAME_TAKEN")
    if text == "bug":
        raise KeyError("swordfish")
    if text == "outage":
        raise ConnectionResetError("swordfish")
    if text == "abort":
        context.abort(grpc.StatusCode.DATA_LOSS, "gone")
    return Text(value=f"{server.caller(context).uri()} {text}")


def handlers() -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    def one(request: Text, context: grpc.ServicerContext) -> Text:
        return act(request.value, context)

    def many(request: Text, context: grpc.ServicerContext) -> Iterator[Text]:
        yield act(request.value, context)

    def gather(requests: Iterator[Text], context: grpc.ServicerContext) -> Text:
        return act("".join(request.value for request in requests), context)

    def chat(requests: Iterator[Text], context: grpc.ServicerContext) -> Iterator[Text]:
        for request in requests:
            yield act(request.value, context)

    codec: dict[str, Any] = {
        "request_deserializer": Text.FromString,
        "response_serializer": Text.SerializeToString,
    }
    return {
        "unary_unary": grpc.unary_unary_rpc_method_handler(one, **codec),
        "unary_stream": grpc.unary_stream_rpc_method_handler(many, **codec),
        "stream_unary": grpc.stream_unary_rpc_method_handler(gather, **codec),
        "stream_stream": grpc.stream_stream_rpc_method_handler(chat, **codec),
    }


def register(grpc_server: grpc.Server) -> None:
    grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers()),))


def control_only(peer: Peer, method: str) -> Identity:
    if peer.identity is None or peer.identity.kind is not Kind.CONTROL:
        raise errors.PermissionDeniedError(f"{method} is for the control plane", "CONTROL_ONLY")
    return peer.identity


def explain(error: Exception) -> errors.OstlerError | None:
    if isinstance(error, ConnectionResetError):
        return errors.UnavailableError("try again", "AWAY", {"retry_after_s": "2"})
    return None


def call(open_channel: grpc.Channel, method: str, text: str) -> str:
    """Calls one of the four kinds and gives the (first) answer's text."""
    make = getattr(open_channel, method)
    stub = make(f"/{SERVICE}/{method}", Text.SerializeToString, Text.FromString)
    request = iter([Text(value=text)]) if method.startswith("stream") else Text(value=text)
    answer = stub(request, timeout=10)
    value: str = (next(answer) if method.endswith("stream") else answer).value
    return value


@pytest.fixture
def authority(tmp_path: Path) -> ThrowawayCa:
    return ThrowawayCa(tmp_path)


@pytest.fixture
def files(authority: ThrowawayCa) -> TlsFiles:
    return authority.issue(HOST)


@pytest.fixture
def echo(files: TlsFiles) -> Iterator[server.Server]:
    running = server.serve(
        "127.0.0.1:0",
        credentials=server_credentials(files),
        services={SERVICE: register},
        authorize=control_only,
        explain=explain,
    )
    yield running
    running.stop(0).wait()


def open_to(running: server.Server, files: TlsFiles) -> grpc.Channel:
    return channel.open_channel(f"127.0.0.1:{running.port}", files, channel.host_server_name(HOST.name))


@pytest.fixture
def control(echo: server.Server, authority: ThrowawayCa) -> Iterator[grpc.Channel]:
    with open_to(echo, authority.issue(CONTROL)) as opened:
        yield opened


@pytest.mark.parametrize("method", METHODS)
def test_admitted_caller_is_served_and_known_to_the_handler(control: grpc.Channel, method: str) -> None:
    assert call(control, method, "hello") == "ostler://control/c1 hello"


@pytest.mark.parametrize("method", METHODS)
def test_another_host_is_refused(echo: server.Server, authority: ThrowawayCa, method: str) -> None:
    with open_to(echo, authority.issue(Identity(Kind.HOST, "other"))) as opened, pytest.raises(grpc.RpcError) as caught:
        call(opened, method, "hello")
    assert errors.from_rpc_error(caught.value).reason == "CONTROL_ONLY"


@pytest.mark.parametrize("method", METHODS)
def test_known_error_arrives_as_it_was_raised(control: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(control, method, "known")
    error = errors.from_rpc_error(caught.value)
    assert isinstance(error, errors.InvalidArgumentError)
    assert (error.reason, error.violations) == ("NAME_TAKEN", (errors.Violation("name", "is taken"),))


@pytest.mark.parametrize("method", METHODS)
def test_bug_tells_the_caller_only_an_incident(control: grpc.Channel, method: str) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(grpc.RpcError) as caught:
        call(control, method, "bug")
    error = errors.from_rpc_error(caught.value)
    assert isinstance(error, errors.InternalError)
    assert "swordfish" not in error.message
    assert error.metadata["incident"] in error.message
    assert [entry["incident"] for entry in logs if "incident" in entry] == [error.metadata["incident"]]


@pytest.mark.parametrize("method", METHODS)
def test_an_outage_is_told_with_a_delay_to_retry_after(control: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(control, method, "outage")
    error = errors.from_rpc_error(caught.value)
    assert (error.code, error.reason, error.message) == ("UNAVAILABLE", "AWAY", "try again")
    status = rpc_status.from_call(caught.value)
    delays = [detail for detail in status.details if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)]
    retry = error_details_pb2.RetryInfo.FromString(delays[0].value)
    assert retry.retry_delay.seconds == 2


def test_handlers_own_abort_keeps_its_code(control: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(control, "unary_unary", "abort")
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS


def test_failing_authorization_lets_nobody_in(files: TlsFiles, authority: ThrowawayCa) -> None:
    def broken(peer: Peer, method: str) -> object:
        raise RuntimeError("no table")

    running = server.serve(
        "127.0.0.1:0", credentials=server_credentials(files), services={SERVICE: register}, authorize=broken
    )
    with open_to(running, authority.issue(CONTROL)) as opened, pytest.raises(grpc.RpcError) as caught:
        call(opened, "unary_unary", "hello")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    running.stop(0).wait()


def test_access_log_has_no_contents(control: grpc.Channel) -> None:
    with structlog.testing.capture_logs() as logs:
        call(control, "unary_unary", "swordfish")
        call(control, "unary_unary", "second")  # the first call's line is written by the time the second is served
    line = next(entry for entry in logs if entry["event"] == "call")
    assert (line["caller"], line["code"]) == ("ostler://control/c1", "OK")
    assert line["method"] == f"/{SERVICE}/unary_unary"
    assert "swordfish" not in str(logs)


def test_client_that_leaves_is_no_bug(control: grpc.Channel) -> None:
    requests_end = threading.Event()

    def endless() -> Iterator[Text]:
        yield Text(value="hello")
        requests_end.wait(30)

    stub = control.stream_stream(f"/{SERVICE}/stream_stream", Text.SerializeToString, Text.FromString)
    with structlog.testing.capture_logs() as logs:
        answers = stub(endless(), timeout=10)
        next(answers)
        answers.cancel()
        served: list[str] = []
        for _ in range(1000):
            served = [entry["code"] for entry in logs if str(entry.get("method")).endswith("stream_stream")]
            if served:
                break
            call(control, "unary_unary", "tick")
        requests_end.set()
    # gRPC tells the handler either that the requests are over or that the client is gone.
    assert served in (["CANCELLED"], ["OK"])
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def test_health_and_reflection_answer_those_who_may_call(control: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(control)
    assert health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10).status == 1
    reflection = reflection_pb2_grpc.ServerReflectionStub(control)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    listed = next(reflection.ServerReflectionInfo(asked, timeout=10)).list_services_response.service
    assert SERVICE in [service.name for service in listed]


def test_health_refuses_others(echo: server.Server, authority: ThrowawayCa) -> None:
    with open_to(echo, authority.issue(Identity(Kind.HOST, "other"))) as opened, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_foreign_ca_does_not_get_through_the_handshake(
    echo: server.Server, authority: ThrowawayCa, tmp_path: Path
) -> None:
    foreign = ThrowawayCa(tmp_path, "users").issue(CONTROL, trust=authority.trust)
    with open_to(echo, foreign) as opened, pytest.raises(grpc.RpcError) as caught:
        call(opened, "unary_unary", "hello")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_server_of_another_name_is_not_talked_to(echo: server.Server, authority: ThrowawayCa) -> None:
    files = authority.issue(CONTROL)
    address = f"127.0.0.1:{echo.port}"
    opened = channel.open_channel(address, files, "another.host.ostler.internal")
    with opened, pytest.raises(grpc.RpcError) as caught:
        call(opened, "unary_unary", "hello")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_port_that_is_taken_is_an_error(echo: server.Server, files: TlsFiles) -> None:
    with pytest.raises(OSError, match="cannot listen"):
        server.serve(
            f"127.0.0.1:{echo.port}", credentials=server_credentials(files), services={}, authorize=control_only
        )


def handshake(port: int, files: TlsFiles, version: ssl.TLSVersion, client_certificate: bool = True) -> bytes | None:
    """Shakes hands as a TLS client that can do nothing newer than `version`; gives the server's certificate."""
    context = ssl.create_default_context(cafile=str(files.trust))
    if client_certificate:
        context.load_cert_chain(files.certificate)
    context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    with raw, context.wrap_socket(raw, server_hostname=channel.host_server_name(HOST.name)) as stream:
        # In TLS 1.3 a refused client learns of it only now; an accepted one gets HTTP/2 settings.
        if not stream.recv(1):
            raise ConnectionError("closed by the server")
        assert stream.version() == "TLSv1.3"
        return stream.getpeercert(binary_form=True)


def test_only_tls_1_3(echo: server.Server, authority: ThrowawayCa) -> None:
    files = authority.issue(CONTROL)
    assert handshake(echo.port, files, ssl.TLSVersion.TLSv1_3)
    with pytest.raises(ssl.SSLError):
        handshake(echo.port, files, ssl.TLSVersion.TLSv1_2)


def test_no_client_certificate_no_connection(echo: server.Server, authority: ThrowawayCa) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(echo.port, authority.issue(CONTROL), ssl.TLSVersion.TLSv1_3, client_certificate=False)


def test_client_refuses_a_tls_1_2_server(authority: ThrowawayCa, files: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    outcome: list[Exception] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            try:
                context.wrap_socket(listener.accept()[0], server_side=True)
            except ssl.SSLError as error:
                outcome.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with channel.open_channel(address, authority.issue(CONTROL), channel.host_server_name(HOST.name)) as opened:
            with pytest.raises(grpc.RpcError):
                call(opened, "unary_unary", "hello")
            thread.join(10)
    assert "NO_SHARED_CIPHER" in str(outcome) or "UNSUPPORTED_PROTOCOL" in str(outcome)


def test_replaced_certificate_is_served_without_a_restart(echo: server.Server, authority: ThrowawayCa) -> None:
    client = authority.issue(CONTROL)
    old = handshake(echo.port, client, ssl.TLSVersion.TLSv1_3)
    authority.issue(HOST)
    assert handshake(echo.port, client, ssl.TLSVersion.TLSv1_3) != old


def test_broken_replacement_keeps_the_old_certificate(
    echo: server.Server, authority: ThrowawayCa, files: TlsFiles
) -> None:
    client = authority.issue(CONTROL)
    old = handshake(echo.port, client, ssl.TLSVersion.TLSv1_3)
    files.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    assert handshake(echo.port, client, ssl.TLSVersion.TLSv1_3) == old


def test_replaced_trust_counts_at_once(
    echo: server.Server, authority: ThrowawayCa, files: TlsFiles, tmp_path: Path
) -> None:
    newer = ThrowawayCa(tmp_path, "newer")
    pki.write_public(files.trust, authority.ca.certificate_pem + newer.ca.certificate_pem)
    with open_to(echo, replace(newer.issue(CONTROL), trust=authority.trust)) as opened:
        assert call(opened, "unary_unary", "hello")


def test_certificate_that_has_ended_is_refused(echo: server.Server, authority: ThrowawayCa) -> None:
    ended = authority.issue(CONTROL, lifetime=timedelta(minutes=2))  # it began five minutes ago
    with open_to(echo, ended) as opened, pytest.raises(grpc.RpcError) as caught:
        call(opened, "unary_unary", "hello")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
