"""The way to a libvirt that listens with TLS: who is verified, who is refused, and that no wait is without a bound."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent.jobs import JobContext
from ostler_agent.tools import tls
from ostler_agent.tools.tls import TlsServer, tunnel
from ostler_common.errors import CancelledError, InvalidArgumentError, OstlerError
from ostler_common.identity import Identity, Kind
from ostler_common.secret import Secret

from tests.fakes.certificates import ThrowawayCa

ACCEPTED = b"\1"


@pytest.fixture
def ca(tmp_path: Path) -> ThrowawayCa:
    return ThrowawayCa(tmp_path, "libvirt")


@pytest.fixture
def local() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # sockets have short names
        yield Path(name, "sock")


@contextmanager
def libvirtd(ca: ThrowawayCa, serve: Callable[[ssl.SSLSocket], None], name: str = "127.0.0.1") -> Iterator[TlsServer]:
    """Serves connections as libvirtd does: with a certificate for `name`, for clients of the CA; yields the way in."""
    files = ca.issue(Identity(Kind.HOST, "libvirt"), addresses=(name,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.trust)
    context.verify_mode = ssl.CERT_REQUIRED

    def run() -> None:
        while True:
            try:
                raw, _ = listener.accept()
                with context.wrap_socket(raw, server_side=True) as connection:
                    serve(connection)
            except ssl.SSLError:
                continue
            except OSError:
                if listener.fileno() == -1 or stopped.is_set():
                    return

    stopped = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    client = ca.issue(Identity(Kind.CONTROL, "client")).read()
    port = listener.getsockname()[1]
    try:
        yield TlsServer("127.0.0.1", port, client.trust.decode(), client.certificate, Secret(client.key))
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)


def echo(connection: ssl.SSLSocket) -> None:
    connection.sendall(ACCEPTED)
    while data := connection.recv(4096):
        connection.sendall(data)


def waits(ended: threading.Event) -> None:
    ended.wait(30)


def refused(server: TlsServer, local: Path) -> str:
    with pytest.raises(OstlerError) as caught, tunnel(server, local, JobContext("copy")):
        pytest.fail("the tunnel opened")
    assert not local.exists()
    return caught.value.reason


def test_bytes_go_to_and_fro(ca: ThrowawayCa, local: Path) -> None:
    with libvirtd(ca, echo) as server, tunnel(server, local, JobContext("copy")), socket.socket(socket.AF_UNIX) as end:
        end.settimeout(30)
        end.connect(str(local))
        end.sendall(b"hello")
        assert end.recv(16) == b"hello"
    assert not local.exists()


def test_a_certificate_for_another_name_or_of_another_ca_is_refused(
    ca: ThrowawayCa, local: Path, tmp_path: Path
) -> None:
    with libvirtd(ca, echo, name="192.0.2.1") as server:
        assert refused(server, local) == "SOURCE_UNTRUSTED"
    (tmp_path / "other").mkdir()
    other = ThrowawayCa(tmp_path / "other")
    with libvirtd(ca, echo) as server:
        assert refused(replace(server, ca_pem=other.trust.read_text()), local) == "SOURCE_UNTRUSTED"


def test_who_is_not_admitted_is_told(ca: ThrowawayCa, local: Path, tmp_path: Path) -> None:
    with libvirtd(ca, lambda connection: None) as server:  # as libvirtd: it hangs up instead of saying yes
        assert refused(server, local) == "LOGIN_FAILED"
    (tmp_path / "other").mkdir()
    client = ThrowawayCa(tmp_path / "other").issue(Identity(Kind.CONTROL, "client")).read()
    with libvirtd(ca, echo) as server:
        stranger = replace(server, certificate=client.certificate, private_key=Secret(client.key))
        assert refused(stranger, local) == "LOGIN_FAILED"


def test_a_server_that_is_silent_or_away_is_not_waited_for_for_ever(
    ca: ThrowawayCa, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CONNECT_TIMEOUT_S", 0.5)
    ended = threading.Event()
    with libvirtd(ca, lambda connection: waits(ended)) as server:
        assert refused(server, local) == "TLS_FAILED"
        ended.set()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert refused(replace(server, port=port), local) == "TLS_FAILED"


def test_a_job_that_ends_cuts_the_tunnel(ca: ThrowawayCa, local: Path) -> None:
    job = JobContext("copy")
    with libvirtd(ca, echo) as server, tunnel(server, local, job), socket.socket(socket.AF_UNIX) as end:
        end.settimeout(30)
        end.connect(str(local))
        job.cancel()
        assert end.recv(16) == b""
        with pytest.raises(CancelledError):
            job.check()


def test_what_cannot_be_right_is_refused(ca: ThrowawayCa) -> None:
    files = ca.issue(Identity(Kind.CONTROL, "client")).read()
    certificate = files.certificate.split(b"-----BEGIN PRIVATE")[0].split(b"-----BEGIN EC PRIVATE")[0]
    good = TlsServer("old1", 16514, files.trust.decode(), certificate, Secret(files.key))
    wrong = (
        {"host": "-x"},
        {"port": 0},
        {"ca_pem": "no CA"},
        {"certificate": b""},
        {"private_key": Secret(b"none")},
        {"private_key": Secret(b"")},
    )
    for fields in wrong:
        with pytest.raises(InvalidArgumentError):
            replace(good, **fields)
