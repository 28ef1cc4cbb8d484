"""Several addresses in the profile: a client goes on with another replica when one dies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from ostler.client import UnavailableError, connect
from ostler.client import failures as client_failures
from ostler.client.failures import RaisesOstlerErrors
from ostler.control.v1.vm_pb2 import GetVmRequest, StartVmRequest
from ostler_common import channel

from tests.fakes.control import Control


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def refusing() -> str:
    """An address that nothing listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_replicas_that_are_down_or_hang_are_passed_over(
    canned: tuple[Control, Path], control: Control, silent: str, refusing: str
) -> None:
    profile = canned[1].with_name("several.toml")
    living = next(line for line in canned[1].read_text().splitlines() if line.startswith("control_address"))
    address = living.split('"')[1]
    text = canned[1].read_text().replace(address, f"{silent}, {refusing}, no-such-name.invalid:8440, {address}")
    profile.write_text(text)
    for _ in range(4):  # the order is random
        with connect(profile) as client:
            assert client.vms.GetVm(GetVmRequest(vm="web-1")).host_name == "h2"


def test_a_channel_goes_on_with_another_server_when_its_own_dies() -> None:
    servers: dict[int, grpc.Server] = {}
    for _ in range(2):
        server = grpc.server(futures.ThreadPoolExecutor(2))
        status = health.HealthServicer()
        status.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        servers[server.add_insecure_port("127.0.0.1:0")] = server
        server.start()
    target = channel.target(",".join(f"localhost:{port}" for port in servers))
    with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as opened:
        stub = health_pb2_grpc.HealthStub(opened)
        call = stub.Check.with_call(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=30)[1]
        assert call.code() is grpc.StatusCode.OK
        for server in servers.values():  # whichever it was
            server.stop(0).wait()
            if server is list(servers.values())[-1]:
                break
            answer = stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ctl1:8440", "ctl1:8440"),
        (" ctl1:8440 ", "ctl1:8440"),
        ("10.0.0.1:1,", "10.0.0.1:1,"),
        ("no-such-name.invalid:1,no-such-name.invalid:1", "no-such-name.invalid:1"),
    ],
)
def test_one_address_is_left_to_grpc(address: str, expected: str) -> None:
    assert channel.target(address) == expected


def test_several_addresses_are_numeric_and_of_one_family() -> None:
    four = channel.target("127.0.0.1:1,127.0.0.2:2")
    assert four.startswith("ipv4:")
    assert set(four.removeprefix("ipv4:").split(",")) == {"127.0.0.1:1", "127.0.0.2:2"}
    both = channel.target("127.0.0.1:1,[::1]:2")
    assert both.startswith("ipv6:")
    assert set(both.removeprefix("ipv6:").split(",")) == {"[::ffff:127.0.0.1]:1", "[::1]:2"}


class _LostError(grpc.RpcError):
    """The connection broke before the answer."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Connection reset by peer"

    def trailing_metadata(self) -> tuple[()]:
        return ()


class _Call:
    def __init__(self, error: grpc.RpcError | None) -> None:
        self._error = error

    def exception(self) -> grpc.RpcError | None:
        return self._error


@pytest.mark.parametrize(
    ("request_id", "losses", "expected"),
    [("r-1", 1, 2), ("r-1", 3, 4), ("r-1", 9, None), ("", 1, None)],
    ids=["one loss", "three losses", "nobody answers", "no request id"],
)
def test_a_change_that_names_its_request_is_sent_again_when_the_connection_breaks(
    request_id: str, losses: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_failures, "_PAUSES_S", (0, 0, 0))
    sent: list[object] = []

    def continuation(details: object, request: object) -> _Call:
        sent.append(request)
        return _Call(_LostError() if len(sent) <= losses else None)

    request = StartVmRequest(vm="web-1", request_id=request_id)
    call = RaisesOstlerErrors().intercept_unary_unary
    if expected is None:
        with pytest.raises(UnavailableError):
            call(continuation, None, request)  # type: ignore[arg-type]
        assert len(sent) == (4 if request_id else 1)
        return
    call(continuation, None, request)  # type: ignore[arg-type]
    assert sent == [request] * expected
