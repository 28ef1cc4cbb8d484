"""An export's files streamed into a staging directory on a host: the control plane needs no space and mounts nothing.

A piece goes on as soon as it has come, and when the host is slower than vCenter, vCenter waits. So memory stays bounded
however large the disks are. What is whole is remembered in the database, for a later attempt.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from ostler.agent.v1 import conversion_pb2 as pb
from ostler_common.errors import OstlerError, UnavailableError, from_rpc_error

from ostler_control.agents import Agents, HostAddress
from ostler_control.agents.client import broken, unreachable
from ostler_control.database import session, transaction
from ostler_control.models import ImportFile
from ostler_control.vmware.sink import Digest, Part

_PIECE_BYTES = 512 << 10
_MAX_QUEUED = 4
_TICK_S = 1.0
# A host that takes no piece for this long is given up; it also has this long to check a whole file.
_STALL_S = 180.0


@dataclass(frozen=True)
class AgentSink:
    """A staging directory on a host. import_id: whose files they are; staged: names of files that are whole there."""

    agents: Agents
    host: HostAddress
    staging: pb.StagingRef
    import_id: str
    staged: frozenset[str]

    def finished(self, name: str) -> Digest | None:
        """See `vmware.sink.Sink`."""
        if name not in self.staged:
            return None
        with session():
            row = ImportFile.get_or_none((ImportFile.vm_import == self.import_id) & (ImportFile.name == name))
        return Digest(row.size_bytes, row.sha1, row.sha256) if row is not None else None

    def create(self, name: str) -> Part:
        """See `vmware.sink.Sink`."""
        with transaction():
            ImportFile.delete().where((ImportFile.vm_import == self.import_id) & (ImportFile.name == name)).execute()
        return _AgentPart(self, name)


class _AgentPart:
    """One upload. The pieces pass through a short queue to gRPC's own thread."""

    def __init__(self, sink: AgentSink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._buffer = bytearray()
        self._open()

    def _open(self) -> None:
        pieces: queue.Queue[pb.UploadFileRequest] = queue.Queue(_MAX_QUEUED)
        closed = threading.Event()
        self._pieces, self._closed = pieces, closed
        begin = pb.UploadFileRequest.Begin(staging=self._sink.staging, name=self._name, offset=0)
        pieces.put(pb.UploadFileRequest(begin=begin))
        agent = self._sink.agents.at(self._sink.host)
        self._call: Any = agent.conversion.UploadFile.future(_requests(pieces, closed))

    def write(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _PIECE_BYTES:
            self._send(pb.UploadFileRequest(data=bytes(self._buffer[:_PIECE_BYTES])))
            del self._buffer[:_PIECE_BYTES]

    def restart(self) -> None:
        self._abandon()
        self._buffer.clear()
        self._open()

    def finish(self, digest: Digest) -> None:
        if self._buffer:
            self._send(pb.UploadFileRequest(data=bytes(self._buffer)))
            self._buffer.clear()
        end = pb.UploadFileRequest.End(size_bytes=digest.size_bytes, sha256=digest.sha256)
        self._send(pb.UploadFileRequest(end=end))
        self._closed.set()
        try:
            self._call.result(timeout=_STALL_S)
        except grpc.FutureTimeoutError:
            raise self._stalled() from None
        except grpc.RpcError as error:
            raise self._failure(error) from None
        with transaction():
            ImportFile.create(
                vm_import=self._sink.import_id,
                name=self._name,
                size_bytes=digest.size_bytes,
                sha1=digest.sha1,
                sha256=digest.sha256,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandon()

    def _send(self, request: pb.UploadFileRequest) -> None:
        end = time.monotonic() + _STALL_S
        while True:
            if self._call.done():
                raise self._failure(self._call.exception())
            try:
                self._pieces.put(request, timeout=_TICK_S)
                return
            except queue.Full:
                if time.monotonic() > end:
                    raise self._stalled() from None

    def _abandon(self) -> None:
        self._closed.set()
        self._call.cancel()

    def _failure(self, failure: BaseException | None) -> OstlerError:
        if not isinstance(failure, grpc.RpcError):
            return UnavailableError(f"host {self._sink.host.name} ended an upload early", "HOST_UNREACHABLE")
        error = from_rpc_error(failure)
        return unreachable(self._sink.host, error) if broken(error) else error

    def _stalled(self) -> OstlerError:
        return unreachable(self._sink.host, UnavailableError("it takes no more of an upload", "RPC"))


def _requests(pieces: queue.Queue[pb.UploadFileRequest], closed: threading.Event) -> Iterator[pb.UploadFileRequest]:
    """What is in the queue, until it is closed and empty."""
    while True:
        try:
            yield pieces.get(timeout=_TICK_S / 4)
        except queue.Empty:
            if closed.is_set():
                return
