"""A connection to the control plane, made at the first call. Imports gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

import grpc
from google.longrunning import operations_pb2 as lro
from google.protobuf.message import Message
from ostler_common.channel import CONTROL_SERVER_NAME, open_channel
from ostler_common.tls import TlsFiles

from ostler.client import operations, watching
from ostler.client.failures import RaisesOstlerErrors
from ostler.client.profile import Profile
from ostler.client.services import Services
from ostler.control.v1.event_pb2 import Event
from ostler.control.v1.operation_pb2 import OperationMetadata

M = TypeVar("M", bound=Message)


def open_to(profile: Profile) -> grpc.Channel:
    """A channel to the control plane that a profile names. Its calls fail with grpc.RpcError."""
    files = TlsFiles(certificate=profile.certificate, key=profile.key, trust=profile.ca)
    return open_channel(profile.control_address, files, CONTROL_SERVER_NAME)


class Client(Services):
    """The services of the control plane that a profile names. Calls that fail raise an OstlerError; where the control
    plane does not answer, UnavailableError with reason RPC.

    A context manager: it closes the connection. Threads may share it.
    """

    def __init__(self, profile: Profile) -> None:
        super().__init__(grpc.intercept_channel(open_to(profile), RaisesOstlerErrors()))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and all calls on it."""
        self.channel.close()

    def wait(
        self,
        operation: lro.Operation,
        answer: type[M],
        *,
        timeout_s: float = operations.WAIT_S,
        on_progress: Callable[[OperationMetadata], None] | None = None,
    ) -> M:
        """Waits until an operation has succeeded and returns what it answers with: the object that it changed.

        answer: type of the answer, e.g. Vm. on_progress: is told phase, percent and bytes a few times per second. An
        operation outlives a restart of the control plane; so does the wait, for a minute of silence. Raises the
        OstlerError that the operation ended with, and DeadlineExceededError OPERATION_UNFINISHED after timeout_s: the
        operation then continues.
        """
        done = operations.wait(self.operations, operation, timeout_s, on_progress)
        operations.raise_for_error(done)
        return operations.answer_of(done, answer)

    def watch_events(
        self,
        *,
        resource_id: str = "",
        type: str = "",  # the field's name
        since: datetime | None = None,
        after: int | None = None,
        on_silence: Callable[[], None] | None = None,
    ) -> Iterator[Event]:
        """Events as they happen, the oldest first, each once, for as long as the caller wants.

        resource_id: only of this object; type: only of this type and its subtypes ("vm"); since: from then on, with
        time zone (default: now); after: instead, after the event with this sequence number. Outlives a minute in which
        the control plane does not answer, at whose begin it calls on_silence; raises what the call fails with.
        """
        return watching.events(
            self.events, resource_id=resource_id, type=type, since=since, after=after, on_silence=on_silence
        )
