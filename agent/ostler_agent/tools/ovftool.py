"""VMware's ovftool: exports a VM of vCenter or ESXi as an OVF descriptor with its disks.

The password is never an argument. The source locator names the user only; ovftool then asks for the password and reads
it from standard input, which is a file in memory that holds this one line. When the password is wrong, ovftool asks
again, finds the end of its input, and fails. The server's certificate must have the given fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ostler_common.errors import FailedPreconditionError, OstlerError, ResourceExhaustedError
from ostler_common.secret import Secret

from ostler_agent.process import Cancellation, RunError, run

MIN_VERSION = (4, 4, 0)  # the first with parallel transfers
MAX_THREADS = 10
_VERSION_TIMEOUT_S = 30
_PERCENT = re.compile(rb"(\d{1,3})%")
_TAIL_CHARS = 2000

_FAILURES = (
    ("Enter login information", FailedPreconditionError, "LOGIN_FAILED", "{server} refuses the user name or password"),
    ("incorrect user name or password", FailedPreconditionError, "LOGIN_FAILED", "{server} refuses the user name or "
     "password"),
    ("SSL", FailedPreconditionError, "CERTIFICATE_MISMATCH", "the certificate of {server} does not have the given "
     "fingerprint"),
    ("No space left", ResourceExhaustedError, "POOL_FULL", "no space was left in the pool for the export"),
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A VM on a server. server: "host" or "host:port"; thumbprint: of the server's certificate; moref: the VM's id."""

    server: str
    username: str
    password: Secret
    thumbprint: str
    moref: str

    @property
    def locator(self) -> str:
        """The VM, in ovftool's words, without the password."""
        return f"vi://{quote(self.username, safe='')}@{self.server}/?moref=vim.VirtualMachine:{self.moref}"


def version() -> tuple[int, ...]:
    """Raises FailedPreconditionError (TOOL_MISSING, OVFTOOL_UNUSABLE)."""
    said = run(["ovftool", "--version"], timeout_s=_VERSION_TIMEOUT_S, check=False).stdout
    found = re.search(r"ovftool (\d+)\.(\d+)\.(\d+)", said)
    if not found:
        raise FailedPreconditionError("ovftool does not tell its version (install 4.4.0 or newer)", "OVFTOOL_UNUSABLE")
    return tuple(int(part) for part in found.groups())


def check_version() -> str:
    """The version, for people. Raises FailedPreconditionError (TOOL_MISSING, OVFTOOL_UNUSABLE)."""
    found = version()
    text = ".".join(map(str, found))
    if found < MIN_VERSION:
        raise FailedPreconditionError(f"ovftool {text} is too old (install 4.4.0 or newer)", "OVFTOOL_UNUSABLE")
    return text


def export(
    source: Source,
    target: Path,
    *,
    threads: int = 1,
    progress: Callable[[int], None] = lambda percent: None,
    cancel: Cancellation | None = None,
) -> None:
    """Exports a VM that is powered off.

    target: the descriptor to write, "vm.ovf"; disks and manifest (SHA-256) are named after it and beside it.
    Raises FailedPreconditionError (LOGIN_FAILED, CERTIFICATE_MISMATCH, EXPORT_FAILED, TOOL_MISSING),
    ResourceExhaustedError (POOL_FULL), and what cancel.check() raises.
    """
    reader = _Reader(progress)
    command = ["ovftool", "--acceptAllEulas", "--noImageFiles", "--shaAlgorithm=SHA256"]
    command += [f"--sourceSSLThumbprint={source.thumbprint}"]
    if threads > 1:
        command.append(f"--parallelThreads={threads}")
    password = Secret(source.password.reveal() + b"\n")
    try:
        run([*command, source.locator, target], stdin=password, on_stdout=reader, cancel=cancel)
    except RunError as error:
        raise _failure(source, f"{reader.tail}\n{error.stderr}") from error


def _failure(source: Source, said: str) -> OstlerError:
    said = said.replace(source.password.reveal().decode(errors="replace"), "***")
    for words, kind, reason, message in _FAILURES:
        # Every export asks for the password once; only one that failed to log in asks again.
        if said.count(words) > (1 if words.startswith("Enter") else 0):
            return kind(message.format(server=source.server), reason, {"server": source.server})
    why = next((line for line in reversed(said.splitlines()) if line.startswith("Error")), said.strip()[-300:])
    return FailedPreconditionError(f"ovftool could not export the VM: {why}", "EXPORT_FAILED")


class _Reader:
    """Follows ovftool's output: the percentages in it, and its end."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress
        self.tail = ""

    def __call__(self, piece: bytes) -> None:
        self.tail = (self.tail + piece.decode(errors="replace"))[-_TAIL_CHARS:]
        if found := _PERCENT.findall(piece):
            self._progress(min(100, int(found[-1])))
