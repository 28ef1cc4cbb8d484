"""Nothing that a caller sends makes the control plane fail by a bug: random requests to every RPC, and bytes that are
no requests. The seed is fixed, so that a failure comes again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from ostler_common.errors import OstlerError, from_rpc_error
from ostler_common.tls import TlsFiles
from ostler_control.caller import Role
from ostler_control.server import Control

from tests.fakes.fleet import Fleet, channel
from tests.rpcs import Method, methods

MESSAGES_PER_METHOD = 10
DEADLINE_S = 10
# What a caller may get for a wrong request; INTERNAL, UNKNOWN and DATA_LOSS mean a bug.
REFUSALS = {
    *("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "PERMISSION_DENIED", "OUT_OF_RANGE"),
    *("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED"),
}
TEXTS = (
    *("", "a", "0", "-1", "admin", "z", "c", "h1", "x" * 63, "x" * 1024, "%s%n", "../../etc/passwd", "a\0b"),
    *("'; DROP TABLE vm; --", "[" * 1024, "{" * 256, "((((((", "operations/x", "00000000-0000-0000-0000-000000000000"),
    *("\u202e", "🖥" * 200, "10.0.0.1:8442", "https://[::1]/x", "file:///etc/shadow", "<a>" * 300, "1e999", "nan"),
)  # fmt: skip
BYTES = (b"", b"\0", b"\xff" * 4096, b"#cloud-config\n{}", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"QFI\xfb" * 100)
NUMBERS = (0, 1, -1, 7, 512, 2**31 - 1, -(2**31))
LARGE = (*NUMBERS, 2**63 - 1, -(2**63), 1 << 40)
FLOATS = (0.0, -1.0, 1e308, float("nan"), float("inf"), float("-inf"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def control(fleet: Fleet) -> Iterator[Control]:
    with fleet.running() as control:
        fleet.host("h1")
        yield control


@pytest.fixture(scope="module")
def callers(fleet: Fleet, control: Control) -> dict[str, TlsFiles]:
    return {"admin": fleet.user("ada", Role.ADMIN), "member": fleet.user("mia", Role.MEMBER)}


def value(field: Any, rng: random.Random) -> Any:
    """A value of a field that is no message."""
    if field.enum_type is not None:
        return rng.choice([*field.enum_type.values_by_number, 99])
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return rng.choice(TEXTS)
        case FieldDescriptor.TYPE_BYTES:
            return rng.choice(BYTES)
        case FieldDescriptor.TYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return rng.choice(FLOATS)
        case FieldDescriptor.TYPE_INT32:
            return rng.choice(NUMBERS)
        case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_UINT64:
            return abs(rng.choice(NUMBERS))
        case _:
            return rng.choice(LARGE)


def fill(message: Message, rng: random.Random, depth: int = 0) -> None:
    """Sets about two of three fields, some of them more than once."""
    fields: Any = message.DESCRIPTOR.fields  # protobuf has two classes of descriptors, without a common base
    for field in fields:
        if rng.random() < 0.33 or depth > 3:
            continue
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            values = getattr(message, field.name)
            if field.message_type.fields_by_name["value"].message_type is None:
                values[rng.choice(TEXTS)] = value(field.message_type.fields_by_name["value"], rng)
        elif field.is_repeated:
            for _ in range(rng.randint(1, 3)):
                if field.message_type is not None:
                    fill(getattr(message, field.name).add(), rng, depth + 1)
                else:
                    getattr(message, field.name).append(value(field, rng))
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            fill(inner, rng, depth + 1)
        else:
            setattr(message, field.name, value(field, rng))


def call(on: grpc.Channel, method: Method, data: bytes) -> OstlerError | None:
    kind = f"{'stream' if method.streams_in else 'unary'}_{'stream' if method.streams_out else 'unary'}"
    send = getattr(on, kind)(method.path, request_serializer=lambda data: data)
    try:
        answer = send(iter([data, data]) if method.streams_in else data, timeout=DEADLINE_S)
        if method.streams_out:
            next(answer, None)
            answer.cancel()
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return None


@pytest.mark.parametrize("who", ["admin", "member"])
def test_random_requests_meet_no_bug(control: Control, fleet: Fleet, callers: dict[str, TlsFiles], who: str) -> None:
    rng = random.Random(1)
    with channel(control.main_port, callers[who]) as on:
        served = [method for method in methods(on) if method.path.startswith(("/ostler.", "/google."))]
        assert len(served) > 120
        answered = 0
        for method in served:
            for number in range(MESSAGES_PER_METHOD):
                request = method.request()
                fill(request, rng)
                if method.path.endswith("WaitOperation"):
                    request.ClearField("timeout")
                data = request.SerializeToString()
                if number % 5 == 4:  # what a broken client sends
                    data = bytearray(data or b"\x0a")
                    for _ in range(3):
                        data[rng.randrange(len(data))] = rng.randrange(256)
                    data = bytes(data)
                error = call(on, method, data)
                answered += error is None
                assert error is None or error.code in REFUSALS, (method.path, str(request)[:2000], error)
        assert answered, "some of them were accepted"
