"""The migration gateway: the only way from the network to this host's libvirt, open to the sources of migrations.

libvirtd itself does not listen on the network, because it would admit every host of the fleet, at any time. The gateway
listens in its place (libvirt's protocol over TLS), admits a host only while a migration from it is under way, and then
relays bytes to libvirtd's Unix socket. It is a process of its own, so that a restart of the agent breaks no migration.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from ostler_common import notify, pki
from ostler_common.errors import OstlerError
from ostler_common.identity import Identity, Kind

from ostler_agent import relay
from ostler_agent.credentials import CredentialsStore
from ostler_agent.migration.admissions import Admissions
from ostler_agent.relay import MAX_BUFFER_BYTES

PORT = 16514  # libvirt's for TLS
LIBVIRT_SOCKET = Path("/run/libvirt/libvirt-sock")
# libvirt's client waits for this byte after the handshake: the server has accepted its certificate.
_ACCEPTED = b"\x01"
_CLOSE_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of the gateway.

    handshakes, handshakes_per_address: connections that are not admitted yet; sessions, sessions_per_host: connections
    that are (libvirt uses one for each migration); handshake_s: time for the TLS handshake; check_s: how often sessions
    are checked; grace_s: how long a session outlives its admission. The grace lets libvirt finish: a source that misses
    the answer to its last call cannot know that its VM runs on this host already.
    """

    handshakes: int = 64
    handshakes_per_address: int = 8
    sessions: int = 256
    sessions_per_host: int = 64
    handshake_s: float = 10.0
    check_s: float = 1.0
    grace_s: float = 10.0


class _Places:
    """Counts connections by key. A full one admits no more."""

    def __init__(self, total: int, per_key: int) -> None:
        self._total = total
        self._per_key = per_key
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[bool]:
        """Holds a place while the block runs; yields False if there is none."""
        if self._taken.total() >= self._total or self._taken[key] >= self._per_key:
            yield False
            return
        self._taken[key] += 1
        try:
            yield True
        finally:
            self._taken[key] -= 1
            self._taken += Counter()  # forgets keys without connections


@dataclass(frozen=True)
class _Connection:
    """A connection after its TLS handshake."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    identity: Identity | None
    serial: int | None


class Gateway:
    """Serves connections. Reads the host's credentials anew for each, so that a renewal needs no restart."""

    def __init__(
        self, store: CredentialsStore, admissions: Admissions, target: Path = LIBVIRT_SOCKET, limits: Limits = Limits()
    ) -> None:
        self._store = store
        self._admissions = admissions
        self._target = target
        self._limits = limits
        self._handshakes = _Places(limits.handshakes, limits.handshakes_per_address)
        self._sessions = _Places(limits.sessions, limits.sessions_per_host)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Serves until it is cancelled; then cuts all sessions."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError as error:  # too many open files, or a client that has gone again
                    log.warning("cannot accept a connection", reason=str(error))
                    await asyncio.sleep(self._limits.check_s)
                    continue
                task = asyncio.create_task(self._handle(connection, address[0]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handle(self, raw: socket.socket, address: str) -> None:
        try:
            with self._handshakes.hold(address) as free:
                if not free:
                    raw.close()
                    return
                connection = await self._handshake(raw)
            try:
                await self._serve(connection, address)
            finally:
                await relay.close(connection.writer)
        except (OSError, OstlerError, ValueError) as error:  # TLS errors and timeouts are OSErrors
            raw.close()
            log.info("connection failed", address=address, reason=str(error) or type(error).__name__)

    async def _handshake(self, raw: socket.socket) -> _Connection:
        relay.set_keepalive(raw)
        reader = asyncio.StreamReader(MAX_BUFFER_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            raw,
            ssl=self._tls(),
            ssl_handshake_timeout=self._limits.handshake_s,
            ssl_shutdown_timeout=_CLOSE_S,
        )
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        identity, serial = pki.identity_and_serial(ssl.DER_cert_to_PEM_cert(certificate).encode())
        return _Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop), identity, serial)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0  # every connection proves its certificate
        context.load_cert_chain(self._store.files.certificate)
        context.load_verify_locations(cadata=self._store.load().ca_pem.decode())
        return context

    async def _serve(self, connection: _Connection, address: str) -> None:
        refusal = self._refusal(connection)
        name = connection.identity.uri() if connection.identity else ""
        if refusal:
            log.warning("refused", peer=name, address=address, reason=refusal)
            return
        with self._sessions.hold(name) as free:
            if not free:
                log.warning("refused", peer=name, address=address, reason="it has too many connections")
                return
            log.info("session begins", peer=name, address=address)
            await self._relay(connection)
            log.info("session ended", peer=name, address=address)

    def _refusal(self, connection: _Connection) -> str | None:
        """Why this connection is not admitted, or is no longer; None if it is."""
        if connection.identity is None or connection.identity.kind is not Kind.HOST:
            return "its certificate is not a host's"
        if connection.serial in pki.revoked_serials(self._store.load().crl_pem):
            return "its certificate is revoked"
        if not self._admissions.admits(connection.identity.name):
            return "no migration from it is under way"
        return None

    async def _relay(self, connection: _Connection) -> None:
        """Relays until one side closes, or the connection is no longer admitted."""
        opening = asyncio.open_unix_connection(self._target, limit=MAX_BUFFER_BYTES)
        reader, writer = await asyncio.wait_for(opening, self._limits.handshake_s)
        try:
            connection.writer.write(_ACCEPTED)
            parts = [
                asyncio.create_task(relay.copy(connection.reader, writer)),
                asyncio.create_task(relay.copy(reader, connection.writer)),
                asyncio.create_task(self._until_refused(connection)),
            ]
            try:
                await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
        finally:
            await relay.close(writer)

    async def _until_refused(self, connection: _Connection) -> None:
        """Cuts a connection that has not been admitted for `grace_s`. Time in which nobody looked does not count."""
        loop = asyncio.get_running_loop()
        refused_since: float | None = None
        while refused_since is None or loop.time() - refused_since < self._limits.grace_s:
            await asyncio.sleep(self._limits.check_s)
            if self._is_admitted(connection):
                refused_since = None
            elif refused_since is None:
                refused_since = loop.time()
        log.warning("session cut: its admission has ended")
        connection.writer.transport.abort()

    def _is_admitted(self, connection: _Connection) -> bool:
        try:
            return self._refusal(connection) is None
        except OstlerError:  # credentials that cannot be read admit nobody
            return False


def listen(host: str, port: int = PORT) -> socket.socket:
    """Listens; host "::" means all addresses, IPv4 as well. Raises OSError."""
    if host == "::" and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=128, dualstack_ipv6=True)
    host = "0.0.0.0" if host == "::" else host
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server((str(address[0]), port), family=family, backlog=128)


def run(store: CredentialsStore, host: str) -> None:
    """Serves until SIGTERM or SIGINT. Raises FailedPreconditionError: NOT_JOINED, BAD_CREDENTIALS; OSError."""
    store.load().check()
    with listen(host) as listener:
        asyncio.run(_run(Gateway(store, Admissions()), listener))


async def _run(gateway: Gateway, listener: socket.socket) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving, stopping = asyncio.create_task(gateway.serve(listener)), asyncio.create_task(stop.wait())
    notify.ready(f"listening on port {PORT}")
    log.info("listening", port=PORT)
    while not (serving.done() or stopping.done()):
        notify.alive()
        await asyncio.wait(
            (serving, stopping), timeout=notify.watchdog_interval_s(), return_when=asyncio.FIRST_COMPLETED
        )
    if serving.done():
        serving.result()  # raises what ended it
    notify.stopping()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
