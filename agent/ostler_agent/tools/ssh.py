"""ssh to a server of the operator: its host key must be known, a private key is the only way to log in.

Neither the private key nor the known host keys have a name in any file system: ssh reads them from memory files of this
process. No configuration file, no ssh-agent, no password and no other host key is ever used.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError, bad_field
from ostler_common.secret import Secret

from ostler_agent.keyfile import KeyFile
from ostler_agent.process import Cancellation, Child, RunError, daemon

CONNECT_TIMEOUT_S = 15
MAX_PRIVATE_KEY_BYTES, MAX_KNOWN_HOSTS_BYTES = 16 << 10, 64 << 10
_STOP_TIMEOUT_S = 10.0
_CHECK_INTERVAL_S, _REOPEN_PAUSE_S = 0.5, 1.0
_SPECIAL = frozenset(":%$\\")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?", re.ASCII)
_USERNAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_MISMATCH = (
    "HOST_KEY_MISMATCH", "the host key of {server} is not the one that was given: compare it with the server's, then "
    "change it in the import source",
)  # fmt: skip
_REFUSED = "LOGIN_FAILED", "{server} refuses the user name or the private key"
# What OpenSSH says, and libssh, which nbdkit uses.
_FAILURES = (
    ("Host key verification failed", *_MISMATCH),
    ("host key for server changed", *_MISMATCH),
    ("the host key is unknown", *_MISMATCH),
    ("Permission denied", *_REFUSED),
    ("all possible authentication methods failed", *_REFUSED),
    ("error in libcrypto", "INVALID_PRIVATE_KEY", "the private key for {server} cannot be read; it must be without a "
     "passphrase"),
)  # fmt: skip


@dataclass(frozen=True)
class SshServer:
    """A server and how to log in. known_hosts: its host keys, as lines of ssh's known_hosts file.

    Raises InvalidArgumentError INVALID_HOST, INVALID_PORT, INVALID_USERNAME, INVALID_PRIVATE_KEY, INVALID_KNOWN_HOSTS.
    """

    host: str
    port: int
    username: str
    private_key: Secret
    known_hosts: bytes

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise bad_field("host", "must be a host name or an IP address", "INVALID_HOST")
        if not 0 < self.port < 1 << 16:
            raise bad_field("port", "must be 1 to 65535", "INVALID_PORT")
        if not _USERNAME.fullmatch(self.username):
            raise bad_field("username", "must be the name of a Unix user", "INVALID_USERNAME")
        if not 0 < len(self.private_key.reveal()) <= MAX_PRIVATE_KEY_BYTES:
            raise bad_field("private_key", f"must have 1 to {MAX_PRIVATE_KEY_BYTES} bytes", "INVALID_PRIVATE_KEY")
        if not 0 < len(self.known_hosts) <= MAX_KNOWN_HOSTS_BYTES:
            raise bad_field("known_hosts", f"must have 1 to {MAX_KNOWN_HOSTS_BYTES} bytes", "INVALID_KNOWN_HOSTS")

    @contextmanager
    def credentials(self) -> Iterator[Credentials]:
        """Holds the key and the known hosts for programs that run within the block."""
        with KeyFile(self.private_key) as key, KeyFile(Secret(self.known_hosts)) as known_hosts:
            yield Credentials(key.outer_path, known_hosts.outer_path)


@dataclass(frozen=True)
class Credentials:
    """Paths of memory files that only this user can open."""

    private_key: Path
    known_hosts: Path


@contextmanager
def tunnel(server: SshServer, sockets: Mapping[Path, str], cancel: Cancellation | None = None) -> Iterator[Child]:
    """Forwards Unix sockets to sockets of the server while the block lasts; runs nothing there. Yields the process.

    sockets: remote sockets by local paths, which must not exist, in a directory that only this user can enter; no
    path has a character of ":%$" or a backslash, which mean something to ssh. Stay in one thread within the block.
    Raises FailedPreconditionError HOST_KEY_MISMATCH, LOGIN_FAILED, INVALID_PRIVATE_KEY, TOOL_MISSING;
    UnavailableError SSH_FAILED; DeadlineExceededError COMMAND_TIMEOUT; what cancel.check() raises.
    """
    with ExitStack() as stack:
        credentials = stack.enter_context(server.credentials())
        command: list[str | Path] = ["ssh", *_options(server, credentials), "-N", "-T"]
        for local, remote in sockets.items():
            if _SPECIAL.intersection(f"{local}{remote}"):
                raise bad_field("sockets", 'must be paths without ":", "%", "$" and backslashes', "INVALID_PATH")
            command += ["-L", f"{local}:{remote}"]
        try:
            ssh = stack.enter_context(
                daemon(
                    [*command, "--", server.host],
                    ready=list(sockets)[-1],
                    start_timeout_s=2 * CONNECT_TIMEOUT_S,
                    stop_timeout_s=_STOP_TIMEOUT_S,
                    cancel=cancel,
                )
            )
            yield ssh.child
        except RunError as error:
            if Path(error.command[0]).name != "ssh":
                raise
            raise explained(server.host, error.stderr) from None


@contextmanager
def lasting_tunnel(server: SshServer, sockets: Mapping[Path, str], cancel: Cancellation) -> Iterator[None]:
    """Like `tunnel`, and opens it again, from the same sockets, whenever it breaks within the block.

    Raises as `tunnel` does, but only before the block: what breaks later is tried again, whatever the failure.
    """
    stop, opened = threading.Event(), threading.Event()
    failures: list[Exception] = []

    def keep() -> None:
        while not stop.is_set():
            try:
                for local in sockets:
                    local.unlink(missing_ok=True)
                with tunnel(server, sockets, cancel) as child:
                    opened.set()
                    while child.poll() is None and not stop.wait(_CHECK_INTERVAL_S):
                        pass
            except Exception as error:
                if not opened.is_set():
                    failures.append(error)
                    opened.set()
                    return
            stop.wait(_REOPEN_PAUSE_S)

    thread = threading.Thread(target=keep, name="ssh-tunnel", daemon=True)
    thread.start()
    try:
        while not opened.wait(_CHECK_INTERVAL_S):
            cancel.check()
        if failures:
            raise failures[0]
        yield
    finally:
        stop.set()
        thread.join()


def explained(host: str, said: str) -> OstlerError:
    """What ssh, or a program that speaks its protocol, said, as an error."""
    for text, reason, message in _FAILURES:
        if text in said:
            return FailedPreconditionError(message.format(server=host), reason, {"server": host})
    lines = said.strip().splitlines() or ["no error output"]
    return UnavailableError(f"the ssh connection to {host} failed: {lines[-1][:500]}", "SSH_FAILED", {"server": host})


def _options(server: SshServer, credentials: Credentials) -> list[str | Path]:
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(credentials.known_hosts),
        "GlobalKnownHostsFile": "none",
        "UpdateHostKeys": "no",
        "VerifyHostKeyDNS": "no",
        "ConnectTimeout": str(CONNECT_TIMEOUT_S),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ExitOnForwardFailure": "yes",
        "StreamLocalBindMask": "0177",
        "ForwardAgent": "no",
        "LogLevel": "ERROR",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return ["-F", "none", *flags, "-i", credentials.private_key, "-p", str(server.port), "-l", server.username]
