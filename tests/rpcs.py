"""Every RPC of a running server, found by its reflection, and ways to call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from ostler.control.v1 import account_pb2, account_pb2_grpc
from ostler_common.errors import OstlerError, from_rpc_error
from ostler_common.tls import TlsFiles

from tests.fakes.fleet import channel

DEADLINE_S = 20


@dataclass(frozen=True)
class Method:
    """An RPC as the server's reflection describes it."""

    path: str
    request: Any
    streams_in: bool
    streams_out: bool

    def call(self, on: grpc.Channel) -> OstlerError | None:
        """Calls it with an empty request; the error, None when it answers."""
        kind = f"{'stream' if self.streams_in else 'unary'}_{'stream' if self.streams_out else 'unary'}"
        call = getattr(on, kind)(self.path, request_serializer=self.request.SerializeToString)
        given = iter([self.request()]) if self.streams_in else self.request()
        try:
            answer = call(given, timeout=DEADLINE_S)
            if self.streams_out:
                next(answer, None)
                answer.cancel()
        except grpc.RpcError as error:
            return from_rpc_error(error)
        return None


def methods(on: grpc.Channel) -> list[Method]:
    """Every method that the server at the other end serves."""
    reflection = ProtoReflectionDescriptorDatabase(on)
    pool = descriptor_pool.DescriptorPool(reflection)
    found = []
    for name in reflection.get_services():
        for method in pool.FindServiceByName(name).methods:
            request = message_factory.GetMessageClass(method.input_type)
            path = f"/{name}/{method.name}"
            found.append(Method(path, request, method.client_streaming, method.server_streaming))
    return found


def who_am_i(port: int, credentials: TlsFiles) -> OstlerError | None:
    with channel(port, credentials) as on:
        try:
            account_pb2_grpc.UserServiceStub(on).WhoAmI(account_pb2.WhoAmIRequest(), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            return from_rpc_error(error)
    return None
