"""Image files of another host through libvirt's own streams, for hosts that only libvirt's TLS port reaches.

A file is read as a volume of a storage pool that the other host has; nothing is refreshed or defined there. A stream
runs from where reading is to the end of the file, as long as reading goes on in sequence; a connection that breaks is
opened again, and reading goes on where it stood.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt
import structlog
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError, UnavailableError

from ostler_agent.hypervisors.libvirt.errors import is_code, lost_connection, translated
from ostler_agent.hypervisors.libvirt.remote import RemoteLibvirt
from ostler_agent.process import Cancellation, RunError
from ostler_agent.tools import nbd_server

log = structlog.get_logger(__name__)

Connect = Callable[[], AbstractContextManager[RemoteLibvirt]]

CHUNK_BYTES = 1 << 20
_KEPT_CHUNKS = 32
_PIECE_BYTES = 256 << 10  # as much as libvirt puts into one message
_HOLE = -3  # what recvFlags returns at a hole
_RECONNECT_S, _RECONNECT_PAUSE_S = 900.0, 2.0


@dataclass(frozen=True)
class VolumeFiles:
    """The `remote_disk.FileServer` of a host whose libvirt is asked. connect: opens a connection of its own."""

    connect: Connect

    @contextmanager
    def open(self, path: str, place: Path, cancel: Cancellation) -> Iterator[VolumeFile]:
        """See `remote_disk.FileServer.open`.

        Raises FailedPreconditionError NOT_IN_POOL, DISK_UNREADABLE; AbortedError SOURCE_CHANGED; what `connect` raises.
        """
        file = VolumeFile(self.connect, path, place.with_suffix(".sock"), cancel)
        with contextlib.closing(file), nbd_server.serve(file, file.socket):
            try:
                yield file
            except (RunError, OstlerError):
                if file.failure is not None:  # the client has heard of an I/O error only
                    raise file.failure from None
                raise


class VolumeFile:
    """The `remote_disk.ServedFile` of one file; also the `nbd_server.Source`. failure: the last one of a read."""

    def __init__(self, connect: Connect, path: str, socket: Path, cancel: Cancellation) -> None:
        self.socket = socket
        self.failure: OstlerError | None = None
        self._connect = connect
        self._path = path
        self._cancel = cancel
        self._lock = threading.Lock()
        self._checked: dict[int, bytes] = {}
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._session: _Session | None = _Session(connect, path)
        self.size_bytes = self._session.size_bytes

    def read(self, offset: int, count: int, cancel: Cancellation | None = None) -> bytes:
        """See `remote_disk.ServedFile.read`, and, without `cancel`, `nbd_server.Source.read`."""
        end = min(offset + count, self.size_bytes)
        with self._lock:
            parts = bytearray()
            while offset < end:
                number, skip = divmod(offset, CHUNK_BYTES)
                piece = self._chunk(number, keep=cancel is not None)[skip : skip + end - offset]
                parts += piece
                offset += len(piece)
            return bytes(parts)

    def end_checks(self) -> None:
        """See `remote_disk.ServedFile.end_checks`: what was read is kept all the same, it is not much."""

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._end_session()

    def _chunk(self, number: int, *, keep: bool) -> bytes:
        if number in self._checked:
            return self._checked[number]
        if number in self._recent:
            self._recent.move_to_end(number)
            return self._recent[number]
        try:
            data = self._fetch(number)
        except OstlerError as error:
            self.failure = error
            raise
        if keep:
            self._checked[number] = data
            return data
        self._recent[number] = data
        if len(self._recent) > _KEPT_CHUNKS:
            self._recent.popitem(last=False)
        return data

    def _fetch(self, number: int) -> bytes:
        offset = number * CHUNK_BYTES
        count = min(CHUNK_BYTES, self.size_bytes - offset)
        end = time.monotonic() + _RECONNECT_S
        while True:
            try:
                return self._opened().read(offset, count)
            except UnavailableError as error:
                self._end_session()
                self._cancel.check()
                if time.monotonic() > end:
                    raise
                log.warning("the connection to the source of a copy is opened again", reason=error.reason)
                time.sleep(_RECONNECT_PAUSE_S)

    def _opened(self) -> _Session:
        if self._session is None:
            self._session = _Session(self._connect, self._path)
            if self._session.size_bytes != self.size_bytes:
                raise AbortedError(f"{self._path} has another size than before; import the VM again", "SOURCE_CHANGED")
        return self._session

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


class _Session:
    """A connection with one file open; a stream from where it was read last."""

    def __init__(self, connect: Connect, path: str) -> None:
        self._path = path
        self._stream: _Stream | None = None
        with ExitStack() as stack:
            self._libvirt = stack.enter_context(connect())
            with translated("opening an image of the source"):
                self._volume = _find(self._libvirt, path)
                flags = libvirt.VIR_STORAGE_VOL_GET_PHYSICAL
                self.size_bytes = int(self._volume.infoFlags(flags)[2])
            self._stack = stack.pop_all()

    def read(self, offset: int, count: int) -> bytes:
        """Exactly so many bytes."""
        with translated("reading an image of the source"):
            if self._stream is None or self._stream.offset != offset:
                self._end_stream()
                self._stream = _Stream(self._libvirt, self._volume, offset)
            data = self._stream.read(count)
        if len(data) < count:
            raise FailedPreconditionError(f"{self._path} ends before its size", "DISK_UNREADABLE", {"path": self._path})
        return data

    def close(self) -> None:
        self._end_stream()
        self._stack.close()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _find(connection: RemoteLibvirt, path: str) -> libvirt.virStorageVol:
    try:
        return connection.find_volume(path)
    except libvirt.libvirtError as error:
        if lost_connection(error) or not is_code(error, libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_NO_SUPPORT):
            raise
        folder = Path(path).parent
        raise FailedPreconditionError(
            f"{path} is in no active storage pool of the source, so that libvirt does not show it through TLS: define a"
            f" pool there (virsh pool-create-as ostler-import dir --target {folder}), refresh the one that has it"
            " (virsh pool-refresh), or add the source with ssh",
            "NOT_IN_POOL",
            {"path": path},
        ) from None


class _Stream:
    """The bytes of a volume from an offset on. Holes are not sent."""

    def __init__(self, connection: RemoteLibvirt, volume: libvirt.virStorageVol, offset: int) -> None:
        self.offset = offset
        self._hole_bytes = 0
        self._stream = connection.new_stream()
        volume.download(self._stream, offset, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)

    def read(self, count: int) -> bytes:
        """So many bytes, or fewer at the end of the file."""
        data = bytearray()
        while len(data) < count:
            if self._hole_bytes:
                zeros = min(self._hole_bytes, count - len(data))
                data += bytes(zeros)
                self._hole_bytes -= zeros
                continue
            wanted = min(count - len(data), _PIECE_BYTES)
            piece = self._stream.recvFlags(wanted, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
            if piece == _HOLE:
                self._hole_bytes = int(self._stream.recvHole())
            elif not piece:
                break
            else:
                data += piece
        self.offset += len(data)
        return bytes(data)

    def close(self) -> None:
        """Whatever is left of it is not sent any more."""
        with contextlib.suppress(libvirt.libvirtError):
            self._stream.abort()
