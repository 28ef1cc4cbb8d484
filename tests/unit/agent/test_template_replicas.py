"""A host fetches a template from several replicas, one of which dies in the middle."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from ostler.control.v1 import enrollment_pb2, enrollment_pb2_grpc
from ostler_agent.control_link import ControlLink
from ostler_agent.credentials import CredentialsStore
from ostler_agent.jobs import JobContext
from ostler_agent.spec import DiskFormat
from ostler_agent.templates import Templates, TemplateSource, sources
from ostler_agent.tools import qemu_img
from ostler_common import server
from ostler_common.errors import UnimplementedError
from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles, server_credentials

from tests.fakes.certificates import ThrowawayCa

PIECE = 1 << 16
DATA = b"".join(number.to_bytes(4, "big") for number in range(40 * PIECE // 4))
BEFORE_IT_DIES = 7


class Replica(enrollment_pb2_grpc.HostAgentServiceServicer):
    """Serves DATA. Whichever of those that share `turn` is asked first dies in the middle, once `arrived` is set.

    offsets: what it was asked for; sent: bytes."""

    def __init__(self, files: TlsFiles, turn: threading.Lock, arrived: threading.Event) -> None:
        self._turn, self._arrived = turn, arrived
        self.offsets: list[int] = []
        self.sent = 0
        self._server = server.serve(
            "127.0.0.1:0",
            credentials=server_credentials(files),
            services={
                "ostler.control.v1.HostAgentService": (
                    lambda s: enrollment_pb2_grpc.add_HostAgentServiceServicer_to_server(self, s)
                )
            },
            authorize=lambda peer, method: peer.identity,
            workers=4,
        )
        self.address = f"127.0.0.1:{self._server.port}"

    def die(self) -> None:
        self._server.stop(0).wait()

    def DownloadTemplate(
        self, request: enrollment_pb2.DownloadTemplateRequest, context: grpc.ServicerContext
    ) -> Iterator[enrollment_pb2.DownloadTemplateResponse]:
        self.offsets.append(request.offset)
        dies = self._turn.acquire(blocking=False)
        for number, start in enumerate(range(request.offset, len(DATA), PIECE)):
            if dies and number == BEFORE_IT_DIES:
                assert self._arrived.wait(30)
                ended = threading.Event()
                context.add_callback(ended.set)
                threading.Thread(target=self.die).start()
                assert ended.wait(30)
                return
            piece = DATA[start : start + PIECE]
            self.sent += len(piece)
            yield enrollment_pb2.DownloadTemplateResponse(data=piece)

    def RenewCertificate(self, *_: object) -> enrollment_pb2.RenewCertificateResponse:
        raise UnimplementedError("not here", "NO_RENEWAL")


class Store(CredentialsStore):
    """A host's credentials, wherever they are."""

    def __init__(self, directory: Path, files: TlsFiles) -> None:
        super().__init__(directory)
        self._files = files

    @property
    def files(self) -> TlsFiles:
        return self._files


def test_another_replica_is_asked_for_the_rest_and_for_no_byte_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu_img, "info", lambda path, disk_format: None)
    ca = ThrowawayCa(tmp_path)
    turn, arrived, received = threading.Lock(), threading.Event(), [0]
    with ExitStack() as stack:
        replicas = [Replica(ca.issue(Identity(Kind.CONTROL, name)), turn, arrived) for name in ("c1", "c2")]
        for replica in replicas:
            stack.callback(replica.die)
        store = Store(tmp_path, ca.issue(Identity(Kind.HOST, "h1")))
        link = ControlLink(store, ",".join(replica.address for replica in replicas))
        download = sources(link.download_template)

        def counted(source: TemplateSource, offset: int) -> Iterator[bytes]:
            for piece in download(source, offset):
                received[0] += len(piece)
                yield piece
                if received[0] == BEFORE_IT_DIES * PIECE:
                    arrived.set()

        templates = Templates(tmp_path / "templates", counted)
        source = TemplateSource("t", hashlib.sha256(DATA).hexdigest(), len(DATA), DiskFormat.RAW)
        with templates.hold(JobContext("a"), source) as template:
            assert template.path.read_bytes() == DATA
        first, second = sorted(replicas, key=lambda replica: replica.offsets)
    half = BEFORE_IT_DIES * PIECE
    assert (first.offsets, second.offsets) == ([0], [half])
    assert (first.sent, second.sent, received[0]) == (half, len(DATA) - half, len(DATA))
