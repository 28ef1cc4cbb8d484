"""libvirt's TLS port of a server of the operator: its certificate must be signed by a given CA and name the host.

The client's key has no name in any file system. libvirt's own client would read it from files with fixed names and has
no limits of time, so the connection is made here, and libvirt's client talks to it through a local socket.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError, bad_field
from ostler_common.secret import Secret

from ostler_agent import relay
from ostler_agent.keyfile import KeyFile
from ostler_agent.process import Cancellation

CONNECT_TIMEOUT_S = 15.0
MAX_CA_BYTES, MAX_CERTIFICATE_BYTES, MAX_PRIVATE_KEY_BYTES = 256 << 10, 64 << 10, 16 << 10
# libvirtd sends this byte once it has accepted the client's certificate.
_ACCEPTED = b"\x01"
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class TlsServer:
    """A server and how to prove who asks. ca_pem: certificates that its own one is verified by; certificate: the
    client's, with the chain to a CA that the server trusts, PEM; private_key: the client's, PEM, without a passphrase.

    Raises InvalidArgumentError INVALID_HOST, INVALID_PORT, INVALID_CA, INVALID_CERTIFICATE, INVALID_PRIVATE_KEY.
    """

    host: str
    port: int
    ca_pem: str
    certificate: bytes
    private_key: Secret

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise bad_field("host", "must be a host name or an IP address", "INVALID_HOST")
        if not 0 < self.port < 1 << 16:
            raise bad_field("port", "must be 1 to 65535", "INVALID_PORT")
        if not 0 < len(self.ca_pem) <= MAX_CA_BYTES:
            raise bad_field("ca_pem", f"must have 1 to {MAX_CA_BYTES} bytes", "INVALID_CA")
        if not 0 < len(self.certificate) <= MAX_CERTIFICATE_BYTES:
            raise bad_field(
                "client_certificate", f"must have 1 to {MAX_CERTIFICATE_BYTES} bytes", "INVALID_CERTIFICATE"
            )
        if not 0 < len(self.private_key.reveal()) <= MAX_PRIVATE_KEY_BYTES:
            raise bad_field("private_key", f"must have 1 to {MAX_PRIVATE_KEY_BYTES} bytes", "INVALID_PRIVATE_KEY")
        _ = self.context

    @cached_property
    def context(self) -> ssl.SSLContext:
        """How to connect: the server's certificate and the host name in it are always verified."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cadata=self.ca_pem)
        except (ssl.SSLError, ValueError):
            raise bad_field("ca_pem", "must be certificates in PEM's format", "INVALID_CA") from None
        try:
            with KeyFile(Secret(self.certificate + b"\n" + self.private_key.reveal())) as file:
                # A password of its own, or OpenSSL would ask for one on the terminal.
                context.load_cert_chain(file.path, password=b"")
        except (ssl.SSLError, ValueError):
            raise bad_field(
                "client_certificate",
                "must be a certificate in PEM's format, and private_key its key, without a passphrase",
                "INVALID_CERTIFICATE",
            ) from None
        return context

    @contextmanager
    def qemu_files(self, directory: Path) -> Iterator[Path]:
        """The certificates and the key in a directory as QEMU reads it, within the block; the files are in memory."""
        directory.mkdir(mode=0o700)
        contents = {
            "ca-cert.pem": self.ca_pem.encode(),
            "client-cert.pem": self.certificate,
            "client-key.pem": self.private_key.reveal(),
        }
        with ExitStack() as stack:
            for name, content in contents.items():
                (directory / name).symlink_to(stack.enter_context(KeyFile(Secret(content))).outer_path)
            yield directory


@contextmanager
def tunnel(server: TlsServer, local: Path, cancel: Cancellation) -> Iterator[Callable[[], None]]:
    """Forwards a Unix socket to libvirt of the server while the block lasts, for one client; yields what cuts it.

    local: must not exist, in a directory that only this user can enter. Raises FailedPreconditionError
    SOURCE_UNTRUSTED, LOGIN_FAILED; UnavailableError TLS_FAILED; what cancel.check() raises.
    """
    forward = _Forward(server, local)
    thread = threading.Thread(target=forward.run, name="tls-tunnel", daemon=True)
    with cancel.on_cancel(forward.cut):
        thread.start()
        try:
            started = forward.started.wait(3 * CONNECT_TIMEOUT_S)
            cancel.check()
            if forward.failure is not None or not started:
                raise explained(server, forward.failure or TimeoutError())
            yield forward.cut
        finally:
            forward.cut()
            thread.join()
            local.unlink(missing_ok=True)


def explained(server: TlsServer, error: Exception) -> OstlerError:
    """Why a connection failed, as an error."""
    if isinstance(error, OstlerError):
        return error
    where = {"server": server.host}
    if isinstance(error, ssl.SSLCertVerificationError):
        return FailedPreconditionError(
            f"the certificate of {server.host} is not accepted: {error.verify_message}; it must be signed by the CA"
            " that was given and have the host's name or address as a subject alternative name",
            "SOURCE_UNTRUSTED",
            where,
        )
    if isinstance(error, ssl.SSLError):
        return _refused(server)
    what = str(error) or "it does not answer in time"
    return UnavailableError(f"the TLS connection to {server.host} failed: {what}", "TLS_FAILED", where)


def _refused(server: TlsServer) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{server.host} refuses the client's certificate; libvirtd there must trust its CA and admit its name"
        " (tls_allowed_dn_list)",
        "LOGIN_FAILED",
        {"server": server.host},
    )


class _Forward:
    """One connection to a server, and the only client that it is for. started: is set once it is open or has failed."""

    def __init__(self, server: TlsServer, local: Path) -> None:
        self._server = server
        self._local = local
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self.started = threading.Event()
        self.failure: Exception | None = None

    def cut(self) -> None:
        """Ends the connection; from any thread, as often as you like."""
        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:  # it was closed just now
                return

    def run(self) -> None:
        try:
            self._loop.run_until_complete(self._until_cut())
        except Exception as error:
            self.failure = error
        finally:
            self.started.set()
            self._loop.close()

    async def _until_cut(self) -> None:
        parts = [asyncio.ensure_future(self._forward()), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if parts[0].done():
                parts[0].result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _forward(self) -> None:
        reader, writer = await asyncio.wait_for(self._connect(), CONNECT_TIMEOUT_S)
        try:
            if await asyncio.wait_for(reader.read(1), CONNECT_TIMEOUT_S) != _ACCEPTED:
                raise _refused(self._server)
            await self._serve(reader, writer)
        finally:
            writer.transport.abort()  # all that was to be sent has been, or nobody waits for it any more

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        server = self._server
        reader, writer = await asyncio.open_connection(
            server.host,
            server.port,
            ssl=server.context,
            server_hostname=server.host,
            ssl_handshake_timeout=CONNECT_TIMEOUT_S,
            limit=relay.MAX_BUFFER_BYTES,
        )
        relay.set_keepalive(writer.get_extra_info("socket"))
        return reader, writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = self._loop.create_future()

        def accept(local_reader: asyncio.StreamReader, local_writer: asyncio.StreamWriter) -> None:
            if client.done():
                local_writer.close()
            else:
                client.set_result((local_reader, local_writer))

        async with await asyncio.start_unix_server(accept, self._local, limit=relay.MAX_BUFFER_BYTES):
            self.started.set()
            try:
                local_reader, local_writer = await asyncio.shield(client)
                parts = [
                    asyncio.ensure_future(relay.copy(reader, local_writer)),
                    asyncio.ensure_future(relay.copy(local_reader, writer)),
                ]
                try:
                    await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for part in parts:
                        part.cancel()
                    await asyncio.gather(*parts, return_exceptions=True)
            finally:
                if client.done():  # also when it came just before the end
                    client.result()[1].transport.abort()
