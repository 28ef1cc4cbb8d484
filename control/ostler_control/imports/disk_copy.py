"""Areas of one disk on their way from vCenter into a volume, piece by piece, so that memory stays small."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
from ostler.agent.v1 import conversion_pb2 as pb
from ostler.types.v1 import volume_pb2
from ostler_common.errors import AbortedError, OstlerError, UnavailableError, from_rpc_error

from ostler_control.agents import Agents, HostAddress
from ostler_control.agents.client import broken, unreachable
from ostler_control.vmware.areas import Area, complement, merged, split
from ostler_control.vmware.fetch import StoppedError
from ostler_control.vmware.folder import DiskReader

PIECE_BYTES = 1 << 20
# One request to vCenter at most, so that a broken one costs little.
_REQUEST_BYTES = 64 << 20
_ZERO_BYTES = 1 << 30
# Reading this much in vain is cheaper than another request.
_MAX_GAP_BYTES = 256 << 10
_TICK_S = 0.5
# A host that takes no piece for this long is given up; at the end it may have this long to write what it took.
_STALL_S, _FINISH_S = 600.0, 4 * 3600.0
_MAX_TRIES = 6
_FIRST_PAUSE_S = 1.0
_ZEROS = bytes(PIECE_BYTES)


@dataclass(frozen=True)
class DiskCopy:
    """What is copied. areas: what changed, or what is in use; full: all else becomes zeros; target: with its key."""

    areas: tuple[Area, ...]
    capacity_bytes: int
    full: bool
    target: volume_pb2.VolumeRef


def copy_of(areas: Sequence[Area], capacity_bytes: int, target: volume_pb2.VolumeRef, *, full: bool) -> DiskCopy:
    """A copy with the areas in order, and those that are close together joined."""
    return DiskCopy(merged(areas, capacity_bytes, _MAX_GAP_BYTES), capacity_bytes, full, target)


def run_copy(
    agents: Agents,
    host: HostAddress,
    copy: DiskCopy,
    reader: DiskReader,
    stop: threading.Event,
    on_bytes: Callable[[int], None],
) -> None:
    """Copies, and returns once it is durable; again from its start when the host breaks off.

    on_bytes: is told how many more bytes were read, fewer when it starts again. Raises what `DiskReader.read` raises,
    UnavailableError HOST_UNREACHABLE, the host's OstlerError; StoppedError.
    """
    for attempt in range(_MAX_TRIES):
        stream = _Stream(copy, reader, stop, on_bytes)
        try:
            stream.run(agents, host)
            return
        except OstlerError as error:
            if error is stream.failure or not _is_passing(error) or attempt + 1 == _MAX_TRIES:
                raise
            on_bytes(-stream.read_bytes)
            agents.forget(host)
            if stop.wait(_FIRST_PAUSE_S * 2**attempt):
                raise StoppedError from None


def _is_passing(error: OstlerError) -> bool:
    """Whether a host may be about to recover: it restarts, or what a dead agent had open is not closed yet."""
    return isinstance(error, (UnavailableError, AbortedError)) or error.reason == "VOLUME_IN_USE"


class _Stream:
    """One call of WriteDisk."""

    def __init__(
        self, copy: DiskCopy, reader: DiskReader, stop: threading.Event, on_bytes: Callable[[int], None]
    ) -> None:
        self._copy, self._reader, self._stop, self._on_bytes = copy, reader, stop, on_bytes
        self._sent_all = False
        self._last = time.monotonic()
        self.read_bytes = 0
        self.failure: BaseException | None = None

    def run(self, agents: Agents, host: HostAddress) -> None:
        call = agents.at(host).conversion.WriteDisk.future(self._requests())
        try:
            while True:
                try:
                    call.result(timeout=_TICK_S)
                    return
                except grpc.FutureTimeoutError:
                    if self._stop.is_set():
                        raise StoppedError from None
                    if time.monotonic() - self._last > (_FINISH_S if self._sent_all else _STALL_S):
                        raise unreachable(host, UnavailableError("it takes no more of a disk", "RPC")) from None
        except grpc.FutureCancelledError:
            raise self.failure or UnavailableError("a copy ended early", "HOST_UNREACHABLE") from None
        except grpc.RpcError as rpc_error:
            if self.failure is not None:
                raise self.failure from None
            error = from_rpc_error(rpc_error)
            raise (unreachable(host, error) if broken(error) else error) from None
        finally:
            call.cancel()

    def _requests(self) -> Iterator[pb.WriteDiskRequest]:
        """Runs in gRPC's thread: what it raises is kept, for gRPC only tells that the call was cancelled."""
        try:
            yield from self._pieces()
        except (OstlerError, StoppedError) as error:
            self.failure = error
            raise
        self._sent_all = True

    def _pieces(self) -> Iterator[pb.WriteDiskRequest]:
        copy, digest = self._copy, hashlib.sha256()
        yield pb.WriteDiskRequest(begin=pb.WriteDiskRequest.Begin(volume=copy.target))
        if copy.full:
            for gap in complement(copy.areas, copy.capacity_bytes):
                yield from self._zeros(gap)
        for area in copy.areas:
            for part in split(area, _REQUEST_BYTES):
                for offset, data in self._read(part):
                    if data == _ZEROS[: len(data)]:
                        yield from self._zeros(Area(offset, len(data)))
                        continue
                    digest.update(data)
                    yield pb.WriteDiskRequest(data=pb.WriteDiskRequest.Data(offset=offset, data=data))
        yield pb.WriteDiskRequest(end=pb.WriteDiskRequest.End(sha256=digest.hexdigest()))

    def _read(self, area: Area) -> Iterator[tuple[int, bytes]]:
        """The area in pieces, each with its place."""
        offset, buffer = area.start, bytearray()
        for data in self._reader.read(area):
            self.read_bytes += len(data)
            self._last = time.monotonic()
            self._on_bytes(len(data))
            buffer += data
            while len(buffer) >= PIECE_BYTES:
                yield offset, bytes(buffer[:PIECE_BYTES])
                offset += PIECE_BYTES
                del buffer[:PIECE_BYTES]
        if buffer:
            yield offset, bytes(buffer)

    def _zeros(self, area: Area) -> Iterator[pb.WriteDiskRequest]:
        for part in split(area, _ZERO_BYTES):
            self._last = time.monotonic()  # the host has accepted the request before
            yield pb.WriteDiskRequest(zero=pb.WriteDiskRequest.Zero(offset=part.start, length=part.length))
