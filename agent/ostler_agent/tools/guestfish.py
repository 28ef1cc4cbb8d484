"""guestfish: reads the file systems of foreign disks in an appliance, a VM of its own.

The host's kernel never sees the file systems, which may be hostile; what the appliance answers may be, too. Commands
go in through a pipe; each answer ends with a marker that nobody can guess.
"""

from __future__ import annotations

import os
import secrets
import selectors
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ostler_common.errors import (
    AbortedError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
)
from ostler_common.text import printable

from ostler_agent.error_tail import ErrorTail
from ostler_agent.process import PIPE, SCRATCH, Cancellation, Child, spawn

START_TIMEOUT_S = 300.0
MAX_ANSWER_BYTES = 32 << 20
_ANSWER_TIMEOUT_S = 300.0
_PIECE_BYTES = 256 << 10
_MAX_SAID = 300
_SCRATCH_BYTES = 1 << 30
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%=,")

# What libguestfs says when a command fails, and what that means.
_FAILURES: Sequence[tuple[str, type[OstlerError], str]] = (
    ("No such file or directory", NotFoundError, "FILE_NOT_FOUND"),
    ("Not a directory", NotFoundError, "FILE_NOT_FOUND"),
    ("Too many levels of symbolic links", NotFoundError, "FILE_NOT_FOUND"),
    ("mount", FailedPreconditionError, "FILE_SYSTEM_UNREADABLE"),
)


@dataclass
class Appliance:
    """A running appliance. Use it from one thread."""

    _child: Child
    _input: IO[bytes]
    _errors: ErrorTail
    _cancel: Cancellation
    _wake: int

    def ask(self, *command: bytes | str, optional: bool = False, timeout_s: float = _ANSWER_TIMEOUT_S) -> bytes:
        """Runs a command and returns what it prints. optional: a failure is an empty answer.

        Raises NotFoundError FILE_NOT_FOUND, FailedPreconditionError FILE_SYSTEM_UNREADABLE, AbortedError
        FILES_UNREADABLE, DeadlineExceededError FILES_TIMEOUT, what cancel.check() raises.
        """
        return self.ask_all([command], optional=optional, timeout_s=timeout_s)

    def ask_all(
        self, commands: Sequence[Sequence[bytes | str]], *, optional: bool = False, timeout_s: float = _ANSWER_TIMEOUT_S
    ) -> bytes:
        """Runs commands and returns all that they print. Raises what `ask` raises."""
        answer = b""
        for piece in self._run(commands, optional, timeout_s):
            answer += piece
            if len(answer) > MAX_ANSWER_BYTES:
                raise AbortedError("a file system of the disks has too much in one place", "FILES_UNREADABLE")
        return answer

    def stream(self, *command: bytes | str) -> Iterator[bytes]:
        """Runs a command and yields what it prints, in pieces. Raises what `ask` raises."""
        yield from self._run([command], False, _ANSWER_TIMEOUT_S)

    def _run(self, commands: Sequence[Sequence[bytes | str]], optional: bool, timeout_s: float) -> Iterator[bytes]:
        """timeout_s: for each piece of the answer."""
        marker = secrets.token_hex(16).encode() + b"\n"
        text = b"".join(_line(command, optional) for command in commands) + _line(("echo", marker[:-1]), False)
        with ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            assert self._child.stdout
            selector.register(self._child.stdout, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            selector.register(self._input, selectors.EVENT_WRITE)
            kept, end = b"", time.monotonic() + timeout_s
            while not kept.endswith(marker):
                ready = {key.fileobj for key, _ in selector.select(max(0.0, end - time.monotonic()))}
                self._cancel.check()
                if not ready:
                    raise DeadlineExceededError(
                        f"the appliance did not answer within {timeout_s:g} s (try again)", "FILES_TIMEOUT"
                    )
                if self._input in ready:
                    text = self._write(text)
                    if not text:
                        selector.unregister(self._input)
                if self._child.stdout not in ready:
                    continue
                piece = os.read(self._child.stdout.fileno(), _PIECE_BYTES)
                if not piece:
                    raise self._failure()
                kept += piece
                if len(kept) > len(marker):
                    yield kept[: -len(marker)]
                    kept = kept[-len(marker) :]
                end = time.monotonic() + timeout_s

    def _write(self, text: bytes) -> bytes:
        """Returns what is left to write."""
        try:
            return text[os.write(self._input.fileno(), text[:4096]) :]
        except BlockingIOError:
            return text
        except BrokenPipeError:
            return b""  # the end of its output tells why

    def _failure(self) -> OstlerError:
        """Why guestfish ended: it does at the first command that fails."""
        self._child.wait(_ANSWER_TIMEOUT_S)
        said = self._errors.text().strip().rpartition("error: ")[2] or "it did not say why"
        why = printable(" ".join(said.split()))[:_MAX_SAID]
        for words, kind, reason in _FAILURES:
            if words in said:
                return kind(f"the disks cannot be read so: {why}", reason)
        return AbortedError(f"reading the disks failed: {why}", "FILES_UNREADABLE")


@contextmanager
def appliance(
    directory: Path, disks: Sequence[Path], cache: Path, *, force_tcg: bool, cancel: Cancellation
) -> Iterator[Appliance]:
    """Runs an appliance with these raw disks while the block lasts. Stay in one thread within the block.

    directory: where the program works; it sees it as /tmp, and the disks are below it; cache: where the appliance is
    kept from one run to the next; force_tcg: whether that VM must do without KVM.

    Raises FailedPreconditionError TOOL_MISSING, and what `Appliance.ask` raises.
    """
    environment = {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_CACHEDIR": str(cache),
        "TMPDIR": str(SCRATCH),  # the appliance's own disk, on which parts of the guest's files may get
    }
    if force_tcg:
        environment["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    shown = [Path("/tmp") / disk.relative_to(directory) for disk in disks]  # noqa: S108 (its own)
    command = ["guestfish", "--format=raw", *(word for disk in shown for word in ("-a", str(disk)))]
    with ExitStack() as stack:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        commands = stack.enter_context(os.fdopen(writer, "wb", buffering=0))
        os.set_blocking(writer, False)
        (directory / SCRATCH.name).mkdir()
        try:
            child = stack.enter_context(
                spawn(
                    command,
                    stdin=reader,
                    env=environment,
                    tmp=directory,
                    scratch_bytes=_SCRATCH_BYTES,
                    stdout=PIPE,
                )
            )
        finally:
            os.close(reader)
        assert child.stderr
        errors = stack.enter_context(ErrorTail(child.stderr))
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        stack.callback(os.close, wake)
        stack.enter_context(cancel.on_cancel(lambda: os.eventfd_write(wake, 1)))
        running = Appliance(child, commands, errors, cancel, wake)
        running.ask("run", timeout_s=START_TIMEOUT_S)
        yield running


def _line(command: Sequence[bytes | str], optional: bool) -> bytes:
    """A command as guestfish reads it. optional: it goes on after a failure."""
    name, *arguments = (word.encode() if isinstance(word, str) else word for word in command)
    return b" ".join([(b"-" if optional else b"") + name, *map(_quoted, arguments)]) + b"\n"


def _quoted(word: bytes) -> bytes:
    """In double quotes, every byte that could mean something as an escape."""
    return b'"' + b"".join(bytes([byte]) if byte in _PLAIN else b"\\x%02x" % byte for byte in word) + b'"'
