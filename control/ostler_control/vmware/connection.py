"""A session on a vCenter or ESXi host, that logs in again when it has expired."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from typing import TypeVar

from ostler_common.errors import OstlerError, bad_field
from ostler_common.secret import Secret
from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapStubAdapter

from ostler_control.vmware.errors import translated
from ostler_control.vmware.trust import Trust, context_for

T = TypeVar("T")

# vSphere 6.5, the first with secure boot and VM encryption; newer servers speak it, too. A fixed version also spares
# pyvmomi's version query, which waits without limit.
_API_VERSION = "vim.version.version11"
# vSphere 6.7, the first that tells of TPMs; servers from there on are spoken to in it.
_TPM_API_VERSION, _TPM_API = "vim.version.version12", (6, 7)
_CONNECT_TIMEOUT_S, _CALL_TIMEOUT_S = 10.0, 60.0
# Shorter than any server's own limit, so that a call does not go out on a connection that is being closed.
_IDLE_CONNECTION_S = 5
_READ_TRIES = 3
_FIRST_PAUSE_S = 0.5

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", re.ASCII)
_ADDRESS_6 = re.compile(r"[0-9A-Fa-f:.]{2,45}", re.ASCII)


@dataclass(frozen=True)
class Server:
    """A vCenter or a standalone ESXi host, and who logs in there. host: name or address, an IPv6 one without
    brackets."""

    host: str
    user: str
    trust: Trust
    port: int = 443

    @property
    def name(self) -> str:
        """host:port, as it stands in addresses."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, field: str = "address", default_port: int = 443) -> tuple[str, int]:
    """Host and port of "vc.example.org", "10.0.0.5:8443" or "[fd00::5]:443". InvalidArgumentError INVALID_ADDRESS."""
    host, port = text, default_port
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        valid = bool(bracket) and bool(_ADDRESS_6.fullmatch(host)) and (not rest or rest.startswith(":"))
        port_text = rest[1:]
    else:
        host, _, port_text = text.partition(":")
        valid = bool(_NAME.fullmatch(host)) and (bool(port_text) or ":" not in text)
    if port_text:
        valid = valid and port_text.isascii() and port_text.isdigit() and 0 < int(port_text[:6]) < 65536
        port = int(port_text[:6]) if valid else 0
    if not valid:
        raise bad_field(
            field, f"must be a host name or an address, with :PORT if it is not {default_port}", "INVALID_ADDRESS"
        )
    return host, port


def version_of(text: str) -> tuple[int, int]:
    """Of a server's API: (8, 0) of "8.0.2.0"; (0, 0) where it says nothing of the kind."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", str(text), re.ASCII)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Connection:
    """A session. Usable from several threads; what it raises is an OstlerError and holds no secret."""

    def __init__(self, server: Server, password: Secret) -> None:
        """Logs in. Raises FailedPreconditionError VCENTER_UNTRUSTED or VCENTER_LOGIN_REFUSED, UnavailableError
        VCENTER_UNREACHABLE."""
        self.server = server
        self._password = password
        self._lock = threading.Lock()
        self._logins = 0
        self.ssl_context: ssl.SSLContext = context_for(server.trust, server.host, server.port, _CONNECT_TIMEOUT_S)
        with translated(server.name):
            self.stub, self.content = self._open(_API_VERSION)
            if version_of(self.content.about.apiVersion) >= _TPM_API:
                self.stub.DropConnections()
                self.stub, self.content = self._open(_TPM_API_VERSION)
            self._login(0)

    def _open(self, version: str) -> tuple[SoapStubAdapter, vim.ServiceInstanceContent]:
        """Speaks a version of the API, without a login."""
        stub = SoapStubAdapter(
            host=self.server.host,
            port=self.server.port,
            version=version,
            sslContext=self.ssl_context,
            httpConnectionTimeout=_CALL_TIMEOUT_S,
            connectionPoolTimeout=_IDLE_CONNECTION_S,
        )
        return stub, vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()

    @property
    def is_vcenter(self) -> bool:
        """Whether this is a vCenter, not a standalone ESXi host."""
        return self.content.about.apiType == "VirtualCenter"

    @property
    def session_id(self) -> str:
        """The session cookie's value: a secret while the session lasts."""
        return str(self.stub.GetSessionId() or "")

    def reveal_password(self) -> bytes:
        """The password, for the one call that hands it to a host which logs in itself."""
        return self._password.reveal()

    def call(self, what: Callable[[], T], *, repeatable: bool = False) -> T:
        """Makes a call, once more after logging in when the session had expired.

        repeatable: also after a broken connection, for calls that change nothing. Raises an OstlerError, see
        `errors.translated`.
        """
        with translated(self.server.name):
            for attempt in range(_READ_TRIES):
                logins = self._logins
                try:
                    return what()
                except vim.fault.NotAuthenticated:
                    self._login(logins)
                except (OSError, HTTPException) as error:
                    if not repeatable or isinstance(error, ssl.SSLCertVerificationError):
                        raise
                    time.sleep(_FIRST_PAUSE_S * 2**attempt)
            return what()

    def close(self) -> None:
        """Logs out; a server that cannot be reached ends the session by itself."""
        manager = self.content.sessionManager
        with contextlib.suppress(OstlerError), translated(self.server.name):
            if manager is not None:
                manager.Logout()
        self.stub.DropConnections()

    def _login(self, logins: int) -> None:
        """Logs in, unless another thread has since `logins` logins."""
        with self._lock:
            if self._logins != logins:
                return
            manager = self.content.sessionManager
            assert manager is not None
            self.stub.cookie = ""
            manager.Login(self.server.user, self._password.reveal().decode(), None)
            self._logins += 1


@contextlib.contextmanager
def connected(server: Server, password: Secret) -> Iterator[Connection]:
    """A session that ends with the block. Raises what `Connection` raises."""
    connection = Connection(server, password)
    try:
        yield connection
    finally:
        connection.close()
