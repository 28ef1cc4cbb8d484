"""The migration gateway, over real TLS; in libvirt's place a server that echoes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from ostler_agent.credentials import CredentialsStore
from ostler_agent.migration.admissions import Admissions, Source
from ostler_agent.migration.gateway import Gateway, Limits, listen
from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles

from tests.fakes.certificates import ThrowawayCa

H1, H2, H3 = (str(uuid.uuid4()) for _ in range(3))
ACCEPTED = b"\x01"
LIMITS = Limits(handshakes_per_address=2, sessions_per_host=2, handshake_s=1.0, check_s=0.05, grace_s=0.3)


class Station:
    """Host h2: its credentials, its admissions, its gateway and a server in libvirt's place."""

    def __init__(self, root: Path, address: str = "127.0.0.1") -> None:
        self.ca = ThrowawayCa(root)
        self.store = CredentialsStore(root / "state")
        self.save()
        self.admissions = Admissions(root / "admissions")
        self.target = root / "libvirt-sock"
        self.opened = 0
        self.listener = listen(address, 0)
        self.port = self.listener.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))
        self.started, self.stop = threading.Event(), asyncio.Event()
        self.thread.start()
        assert self.started.wait(10)

    def save(self, crl_pem: bytes = b"") -> None:
        self.store.save(self.ca.host_credentials(H2, "h2:8442", crl_pem))

    async def _run(self) -> None:
        await asyncio.start_unix_server(self._echo, self.target)
        serving = asyncio.create_task(Gateway(self.store, self.admissions, self.target, LIMITS).serve(self.listener))
        self.started.set()
        await self.stop.wait()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
            if data == b"bye":
                break
        writer.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)
        self.loop.close()
        self.listener.close()

    def connect(self, files: TlsFiles | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLSocket:
        """Connects as the holder of a certificate."""
        context = ssl.create_default_context(cafile=str(self.ca.trust))
        context.maximum_version = version
        if files is not None:
            context.load_cert_chain(files.certificate)
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        try:
            return context.wrap_socket(raw, server_hostname="127.0.0.1")
        except BaseException:
            raw.close()
            raise

    def host(self, name: str) -> TlsFiles:
        return self.ca.issue(Identity(Kind.HOST, name))

    def opens(self, files: TlsFiles | None) -> bool:
        """Whether the gateway lets the holder of a certificate pass."""
        try:
            with self.connect(files) as connection:
                return connection.recv(1) == ACCEPTED
        except OSError:
            return False


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    station = Station(tmp_path)
    yield station
    station.close()


def receive(connection: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := connection.recv(65536)):
        data += part
    return data


def wait_closed(connection: ssl.SSLSocket) -> None:
    """Waits until the gateway closes."""
    with contextlib.suppress(OSError):
        while connection.recv(1):
            pass


def test_the_source_of_a_migration_reaches_libvirt(station: Station) -> None:
    station.admissions.admit("vm", Source(H1, 60))
    data = os.urandom(1 << 20)
    with station.connect(station.host(H1)) as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.recv(1) == ACCEPTED
        for start in range(0, len(data), 1 << 15):
            connection.sendall(data[start : start + (1 << 15)])
            assert receive(connection, 1 << 15) == data[start : start + (1 << 15)]
        connection.sendall(b"bye")
        assert receive(connection, 99) == b"bye"  # what libvirt says last arrives


def test_a_host_without_a_migration_reaches_nothing(station: Station) -> None:
    assert not station.opens(station.host(H1))
    station.admissions.admit("vm", Source(H3, 60))
    assert not station.opens(station.host(H1))
    assert station.opened == 0
    assert station.opens(station.host(H3))


def test_only_hosts_are_admitted(station: Station, tmp_path: Path) -> None:
    station.admissions.admit("vm", Source(H1, 60))
    (tmp_path / "mallory").mkdir()
    mallory = ThrowawayCa(tmp_path / "mallory")
    for files in (
        None,
        *(station.ca.issue(Identity(kind, H1)) for kind in (Kind.QEMU, Kind.CONTROL, Kind.USER)),
        mallory.issue(Identity(Kind.HOST, H1)),
    ):
        assert not station.opens(files)
    with pytest.raises(OSError, match=r"(?i)version|protocol|reset"):
        station.connect(station.host(H1), ssl.TLSVersion.TLSv1_2)
    assert station.opened == 0
    assert station.opens(station.host(H1))


def test_a_revoked_certificate_is_refused(station: Station) -> None:
    station.admissions.admit("vm", Source(H1, 60))
    files = station.host(H1)
    serial = x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number
    with station.connect(files) as connection:
        assert connection.recv(1) == ACCEPTED
        station.save(station.ca.ca.crl([(serial, datetime.now(UTC))], 1))
        assert not station.opens(files)
        wait_closed(connection)


def test_a_session_ends_soon_after_its_admission(station: Station) -> None:
    station.admissions.admit("vm", Source(H1, 60))
    with station.connect(station.host(H1)) as connection:
        assert connection.recv(1) == ACCEPTED
        time.sleep(2 * LIMITS.grace_s)
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        removed = time.monotonic()
        station.admissions.remove("vm")
        assert not station.opens(station.host(H1))  # at once
        wait_closed(connection)
        assert LIMITS.grace_s / 2 < time.monotonic() - removed < 5


def test_a_host_has_a_limited_number_of_sessions(station: Station) -> None:
    station.admissions.admit("vm", Source(H1, 60))
    station.admissions.admit("other", Source(H3, 60))
    with station.connect(station.host(H1)) as first, station.connect(station.host(H1)) as second:
        assert first.recv(1) + second.recv(1) == 2 * ACCEPTED
        assert not station.opens(station.host(H1))
        assert station.opens(station.host(H3))
    end = time.monotonic() + 10
    while not station.opens(station.host(H1)):
        assert time.monotonic() < end


def test_silent_connections_are_few_and_short(station: Station) -> None:
    station.admissions.admit("vm", Source(H1, 60))
    silent = [socket.create_connection(("127.0.0.1", station.port), timeout=10) for _ in range(3)]
    began = time.monotonic()
    assert silent[2].recv(1) == b""  # one too many
    assert time.monotonic() - began < LIMITS.handshake_s / 2
    for connection in silent[:2]:
        assert connection.recv(1) == b""
    assert station.opens(station.host(H1))
    for connection in silent:
        connection.close()


def test_it_listens_on_ipv6_and_ipv4(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    station = Station(tmp_path, "::")
    try:
        station.admissions.admit("vm", Source(H1, 60))
        assert station.opens(station.host(H1))
    finally:
        station.close()
