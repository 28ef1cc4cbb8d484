"""One caller cannot stop a port: half-open calls, endless calls, huge and malformed messages."""

from __future__ import annotations

import queue
import resource
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ostler_common.errors import FailedPreconditionError, from_rpc_error, from_status, to_status
from ostler_common.tls import TlsFiles
from ostler_control import database
from ostler_control.api import limits
from ostler_control.api.authorization import TABLE
from ostler_control.caller import Role
from ostler_control.models import User
from ostler_control.server import ENROLLMENT, Control
from ostler_control.trust import users

from tests.fakes.fleet import Fleet, bare_channel, channel
from tests.rpcs import DEADLINE_S, Method, methods, who_am_i

WHO_AM_I = "/ostler.control.v1.UserService/WhoAmI"
LIST_VMS = "/ostler.control.v1.VmService/ListVms"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def control(fleet: Fleet) -> Iterator[Control]:
    with fleet.running() as control:
        yield control


@pytest.fixture(scope="module")
def member(fleet: Fleet, control: Control) -> TlsFiles:
    return fleet.user("mia", Role.MEMBER)


def half_open(on: Any, path: str, count: int) -> list[Any]:
    """Calls that send their headers and never a message."""
    never: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    return [on.stream_unary(path).future(iter(never.get, None), timeout=DEADLINE_S) for _ in range(count)]


def codes(calls: list[Any]) -> set[str]:
    return {call.exception(timeout=DEADLINE_S + 5).code().name for call in calls}


def test_half_open_calls_of_a_revoked_user_hold_nothing(fleet: Fleet, control: Control) -> None:
    mallory = fleet.user("mallory", Role.MEMBER)
    with channel(control.main_port, mallory) as on:
        grpc.channel_ready_future(on).result(DEADLINE_S)
        with database.session():
            users.revoke(User.get(User.name == "mallory"), "test")
        begin = time.monotonic()
        calls = half_open(on, WHO_AM_I, 64)
        assert codes(calls) == {"UNAUTHENTICATED"}
        assert time.monotonic() - begin < limits.MAX_READ_S, "they are refused on their headers"
        assert who_am_i(control.main_port, fleet.admin) is None


def test_half_open_calls_of_a_member_end_and_leave_room_for_others(
    fleet: Fleet, control: Control, member: TlsFiles
) -> None:
    with channel(control.main_port, member) as on:
        grpc.channel_ready_future(on).result(DEADLINE_S)
        calls = half_open(on, WHO_AM_I, 64)
        assert who_am_i(control.main_port, fleet.admin) is None
        assert codes(calls) <= {"RESOURCE_EXHAUSTED", "CANCELLED"}


def test_half_open_calls_of_strangers_do_not_close_the_enrollment_port(fleet: Fleet, control: Control) -> None:
    with bare_channel(control.enroll_port, fleet.authority.fleet_pem) as on:
        calls = half_open(on, f"/{ENROLLMENT}/JoinHost", 64)
        assert codes(calls) <= {"RESOURCE_EXHAUSTED", "CANCELLED"}
        status = health_pb2_grpc.HealthStub(on).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S).status
        assert status == health_pb2.HealthCheckResponse.SERVING


def test_endless_calls_of_one_member_leave_threads_for_everybody(
    fleet: Fleet, control: Control, member: TlsFiles
) -> None:
    with channel(control.main_port, member) as on:
        stub = health_pb2_grpc.HealthStub(on)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S) for _ in range(200)]
        refused = 0
        for watch in watches:
            try:
                next(watch)
            except grpc.RpcError as error:
                refused += error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused >= 200 - limits.limits(fleet.config.workers).long
        assert who_am_i(control.main_port, fleet.admin) is None
        with channel(control.main_port, fleet.admin) as admins:
            assert next(health_pb2_grpc.HealthStub(admins).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S))
        for watch in watches:
            watch.cancel()


def test_the_enrollment_port_answers_no_watch(fleet: Fleet, control: Control) -> None:
    with (
        bare_channel(control.enroll_port, fleet.authority.fleet_pem) as on,
        pytest.raises(grpc.RpcError) as refused,
    ):
        next(health_pb2_grpc.HealthStub(on).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_that_cannot_be_parsed_is_refused_without_a_traceback(
    control: Control, member: TlsFiles, capfd: pytest.CaptureFixture[str]
) -> None:
    raw: Any
    with channel(control.main_port, member) as raw, pytest.raises(grpc.RpcError) as refused:
        raw.unary_unary(LIST_VMS)(b"\xff\xff\xff", timeout=DEADLINE_S)
    assert from_rpc_error(refused.value).reason == "BAD_REQUEST"
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_message_larger_than_any_request_is_refused_unread(control: Control, member: TlsFiles) -> None:
    raw: Any
    with channel(control.main_port, member) as raw, pytest.raises(grpc.RpcError) as refused:
        raw.unary_unary(LIST_VMS)(b"\0" * (5 << 20), timeout=DEADLINE_S)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_error_with_much_to_say_arrives() -> None:
    error = FailedPreconditionError("m" * 100_000, "TOO_MUCH", {f"key{n}": "v" * 100_000 for n in range(100)})
    status = to_status(error)
    assert status.ByteSize() < 32_000
    assert from_status(status).reason == "TOO_MUCH"


def fields(descriptor: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[list[FieldDescriptor]]:
    """The path of every string, bytes and repeated field of a message, nested ones too."""
    if descriptor.full_name in seen or descriptor.full_name.startswith("google.protobuf."):
        return
    for field in descriptor.fields:
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES) or field.is_repeated:
            yield [field]
        if field.message_type is not None and not field.is_repeated:
            for rest in fields(field.message_type, seen | {descriptor.full_name}):
                yield [field, *rest]


def filled(request: Message, path: list[FieldDescriptor], over: bool) -> Message:
    """The request with the field at its largest, or larger than that."""
    target: Any = request
    for field in path[:-1]:
        target = getattr(target, field.name)
    field = path[-1]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        count = limits.MAX_FIELD_ELEMENTS.get(field.name, limits.MAX_ELEMENTS) + over
        for number in range(count):
            value = getattr(target, field.name)
            if field.message_type.fields_by_name["value"].message_type is None:
                value[f"k{number}"] = "v"
            else:
                value[f"k{number}"].SetInParent()
        return request
    if field.is_repeated:
        count = limits.MAX_FIELD_ELEMENTS.get(field.name, limits.MAX_ELEMENTS) + over
        values = getattr(target, field.name)
        for _ in range(count):
            if field.message_type is not None:
                values.add()
            else:
                text = field.type == FieldDescriptor.TYPE_STRING
                values.append("x" if text else field.enum_type.values[-1].number if field.enum_type else 1)
        return request
    text = field.type == FieldDescriptor.TYPE_STRING
    size = limits.MAX_FIELD_BYTES.get(field.name, limits.MAX_STRING_BYTES if text else limits.MAX_BYTES) + over
    setattr(target, field.name, "(" * size if text else b"(" * size)
    return request


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_no_field_takes_more_than_its_share(fleet: Fleet, control: Control) -> None:
    """The largest value of every field of every request costs under 100 ms of CPU and 20 MiB; a larger one is refused
    by name. The whole control plane runs in this process, so its CPU counts too."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with channel(control.main_port, fleet.admin) as on:
        served = [method for method in methods(on) if Role.ADMIN in TABLE[method.path]]
        served = [method for method in served if method.path.startswith("/ostler.")]
        tried = 0
        for method in served:
            for path in fields(method.request.DESCRIPTOR):
                name = f"{method.path} {'.'.join(field.name for field in path)}"
                over = _call(on, method, filled(method.request(), path, True))
                assert over is not None, name
                assert over.reason == "FIELD_TOO_LARGE", (name, over)
                request = filled(method.request(), path, False)
                costs = []
                for _ in range(3):  # what else runs in this process costs, too: the smallest counts
                    begin, before = time.process_time(), peak_kib()
                    _call(on, method, request)
                    costs.append((time.process_time() - begin, peak_kib() - before))
                    if costs[-1][0] < 0.1:
                        break
                assert min(cost for cost, _ in costs) < 0.1, name
                assert min(grown for _, grown in costs) < 20 * 1024, name
                tried += 1
    structlog.reset_defaults()
    assert tried > 150


def _call(on: grpc.Channel, method: Method, request: Message) -> Any:
    kind = f"{'stream' if method.streams_in else 'unary'}_{'stream' if method.streams_out else 'unary'}"
    call = getattr(on, kind)(method.path, request_serializer=type(request).SerializeToString)
    given = iter([request]) if method.streams_in else request
    try:
        answer = call(given, timeout=DEADLINE_S)
        if method.streams_out:
            next(answer, None)
            answer.cancel()
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return None
