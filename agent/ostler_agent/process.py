"""Starts every child process of the agent."""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, TypeAlias

import structlog
from ostler_common import tracing
from ostler_common.errors import DeadlineExceededError, FailedPreconditionError, InternalError
from ostler_common.secret import Secret

from ostler_agent.error_tail import ErrorTail

log = structlog.get_logger(__name__)

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TERMINATE_GRACE_S = 5.0
PIPE = subprocess.PIPE
Child: TypeAlias = subprocess.Popen[bytes]
_POLL_INTERVAL_S = 0.05
# An agent that died before setpriv asked for the signal sends none: the command runs only if its parent still lives.
_IF_PARENT_LIVES = 'test "$PPID" = "$0" && exec "$@"'
_BIND_TMP = 'mount --rbind -- "$0" /tmp && exec "$@"'
SCRATCH = Path("/tmp/scratch")  # noqa: S108 (in a /tmp of its own)
_MOUNT_SCRATCH = f'mount -t tmpfs -o "size=$0,mode=0700" tmpfs {SCRATCH} && exec "$@"'


class Cancellation(Protocol):
    """What a running command needs of a job so that it stops with the job (`jobs.JobContext` is one)."""

    def check(self) -> None:
        """Raises if the job must stop."""

    def on_cancel(self, callback: Callable[[], None]) -> AbstractContextManager[object]:
        """Calls back once, from any thread, when the job must stop; leaving the context unregisters the callback."""


@dataclass(frozen=True)
class Limits:
    """Resource limits for a tool that reads untrusted input. file_bytes: of each file that it writes, 0: none."""

    cpu_s: int = 30
    memory_bytes: int = 1 << 30
    file_bytes: int = 0


@dataclass(frozen=True)
class Result:
    """The outcome of a command that ended."""

    command: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Daemon:
    """A helper that runs in the background. errors: its error output."""

    child: Child
    errors: ErrorTail


class RunError(InternalError):
    """A command failed.

    command: its arguments; exit_code: its exit code, or minus the signal that killed it; stderr: its error output.
    """

    def __init__(self, command: Sequence[str], exit_code: int, stderr: str) -> None:
        self.command = tuple(command)
        self.exit_code = exit_code
        self.stderr = stderr
        how = f"exited with {exit_code}" if exit_code >= 0 else f"was killed by {signal.Signals(-exit_code).name}"
        said = stderr.strip()[-2000:] or "no error output"
        super().__init__(f"{Path(command[0]).name} {how}: {said}", "COMMAND_FAILED", {"command": shlex.join(command)})

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.command, self.exit_code, self.stderr)


def run(
    command: Sequence[str | Path],
    *,
    stdin: bytes | Secret | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    timeout_s: float | None = None,
    cancel: Cancellation | None = None,
    on_stdout: Callable[[bytes], None] | None = None,
    limits: Limits | None = None,
    tmp: Path | None = None,
    check: bool = True,
    expected: Collection[str] = (),
) -> Result:
    """Runs a command to its end and returns its output. However it ends, it leaves no process behind.

    stdin: input to feed it (None: no input); env: added to a clean environment; on_stdout: receives each piece of the
    output as it arrives (nothing is collected then); tmp: see `spawn`; check: whether a non-zero exit raises, and is
    logged; expected: texts in the stderr of failures that the caller handles, which are not logged. Raises RunError;
    FailedPreconditionError (TOOL_MISSING); DeadlineExceededError (COMMAND_TIMEOUT); what cancel.check() raises.
    """
    if cancel:
        cancel.check()
    argv = tuple(str(part) for part in command)
    collected: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with ExitStack() as stack:
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        stack.callback(os.close, wake)
        child = stack.enter_context(
            spawn(argv, stdin=stdin, env=env, pass_fds=pass_fds, limits=limits, tmp=tmp, stdout=subprocess.PIPE)
        )
        if cancel:
            stack.enter_context(cancel.on_cancel(lambda: os.eventfd_write(wake, 1)))
        assert child.stdout
        assert child.stderr
        selector = stack.enter_context(selectors.DefaultSelector())
        pidfd = os.pidfd_open(child.pid)
        stack.callback(os.close, pidfd)
        selector.register(pidfd, selectors.EVENT_READ, "exit")
        selector.register(wake, selectors.EVENT_READ, "cancel")
        for name, pipe in (("stdout", child.stdout), ("stderr", child.stderr)):
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, name)

        def read_piece(name: str, pipe: IO[bytes]) -> bool:
            """Reads one piece; False if none is available."""
            piece = pipe.read1(1 << 16)  # type: ignore[attr-defined]
            if piece and name == "stdout" and on_stdout:
                on_stdout(piece)
            elif piece:
                collected[name].append(piece)
            elif piece == b"" and pipe in selector.get_map():
                selector.unregister(pipe)
            return bool(piece)

        pipes = {"stdout": child.stdout, "stderr": child.stderr}
        exited = False
        while not exited:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = {key.data for key, _ in selector.select(left)}
            if "cancel" in ready and cancel:
                cancel.check()
            for name in ready & pipes.keys():
                read_piece(name, pipes[name])
            exited = "exit" in ready
            if not ready:
                log.warning("command timed out", command=shlex.join(argv), timeout_s=timeout_s)
                raise DeadlineExceededError(
                    f"{Path(argv[0]).name} did not end within {timeout_s} s and was killed", "COMMAND_TIMEOUT"
                )
        # A grandchild may keep the pipes open: read only what is available now.
        for name, pipe in pipes.items():
            while read_piece(name, pipe):
                pass
        exit_code = child.wait()
    out, err = (b"".join(collected[name]).decode(errors="replace") for name in ("stdout", "stderr"))
    if check and exit_code:
        if not any(text in err for text in expected):
            log.warning("command failed", command=shlex.join(argv), exit_code=exit_code, stderr=err.strip()[-500:])
        raise RunError(argv, exit_code, err)
    return Result(argv, exit_code, out, err)


@contextmanager
def spawn(
    command: Sequence[str | Path],
    *,
    stdin: bytes | Secret | int | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    limits: Limits | None = None,
    tmp: Path | None = None,
    scratch_bytes: int = 0,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command in its own process group; leaving the block ends the group.

    The child also dies with the thread that started it, so that a killed agent leaves nothing running: do not leave
    that thread within the block. stdin: input, or a descriptor to read it from.
    Its stderr is a pipe. tmp: a directory that the command sees as /tmp, with what is
    mounted below it, for programs that insist on /tmp. scratch_bytes: size of a file system in memory at SCRATCH, where
    tmp has an empty directory; it is gone with the command. Raises FailedPreconditionError (TOOL_MISSING).
    """
    argv = [str(part) for part in command]
    environment = {"PATH": os.environ.get("PATH", DEFAULT_PATH), "HOME": "/", "LC_ALL": "C", **(env or {})}
    program = shutil.which(argv[0], path=environment["PATH"])
    if program is None:
        raise FailedPreconditionError(
            f"the program {argv[0]} is not installed on this host (install it, then try again)",
            "TOOL_MISSING",
            {"program": argv[0]},
        )
    wrapper = ["setpriv", "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _IF_PARENT_LIVES, str(os.getpid())]
    if tmp:
        # A mount namespace of its own, which ends with the command's processes.
        wrapper += ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _BIND_TMP, str(tmp)]
        if scratch_bytes:
            wrapper += ["sh", "-c", _MOUNT_SCRATCH, str(scratch_bytes)]
    if limits:
        bounds = [f"--cpu={limits.cpu_s}", f"--as={limits.memory_bytes}", "--core=0"]
        bounds += [f"--fsize={limits.file_bytes}"] if limits.file_bytes else []
        wrapper = ["prlimit", *bounds, "--", *wrapper]
    log.debug("run", command=shlex.join(argv))
    with tracing.span(Path(program).name):
        with ExitStack() as stack:
            feed: int = subprocess.DEVNULL
            if isinstance(stdin, int):
                feed = stdin
            elif stdin is not None:
                # A file in memory, not a pipe: writing it cannot block, and it has no name in any file system.
                feed = os.memfd_create("stdin", os.MFD_CLOEXEC)
                stack.callback(os.close, feed)
                os.write(feed, stdin.reveal() if isinstance(stdin, Secret) else stdin)
                os.lseek(feed, 0, os.SEEK_SET)
            child = subprocess.Popen(
                [*wrapper, program, *argv[1:]],
                stdin=feed,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=environment,
                pass_fds=tuple(pass_fds),
                cwd="/",
                umask=0o077,
                start_new_session=True,
            )
        try:
            yield child
        finally:
            _end(child)
            if child.returncode is not None:
                tracing.note(exit_code=child.returncode)
            for pipe in (child.stdout, child.stderr):
                if pipe:
                    pipe.close()


@contextmanager
def daemon(
    command: Sequence[str | Path],
    *,
    ready: Path,
    start_timeout_s: float,
    stop_timeout_s: float,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    limits: Limits | None = None,
    cancel: Cancellation | None = None,
) -> Iterator[Daemon]:
    """Runs a helper in the background while the block lasts, and reads its error output all the time.

    ready: a file that it creates once it is ready; limits: for one that reads a stranger's data. When the block
    ends without an error, the helper gets SIGTERM and the time to flush its data. Stay in one thread within the
    block. Raises RunError unless the helper exits with 0 then, and not before; DeadlineExceededError
    (COMMAND_TIMEOUT); as `spawn` does; what cancel.check() raises.
    """
    name = Path(command[0]).name
    with ExitStack() as stack:
        child = stack.enter_context(spawn(command, env=env, pass_fds=pass_fds, limits=limits))
        assert child.stderr
        errors = stack.enter_context(ErrorTail(child.stderr))
        deadline = time.monotonic() + start_timeout_s
        while not ready.exists():
            _await_exit(child, _POLL_INTERVAL_S)
            if child.returncode is not None:
                raise _exited(command, child, errors)
            if cancel:
                cancel.check()
            if time.monotonic() >= deadline:
                raise DeadlineExceededError(f"{name} did not start within {start_timeout_s} s", "COMMAND_TIMEOUT")
        yield Daemon(child, errors)
        child.terminate()
        _await_exit(child, stop_timeout_s)
        if child.returncode is None:
            raise DeadlineExceededError(f"{name} did not end within {stop_timeout_s} s", "COMMAND_TIMEOUT")
        if child.returncode:
            raise _exited(command, child, errors)


def _await_exit(child: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass


def _exited(command: Sequence[str | Path], child: Child, errors: ErrorTail) -> RunError:
    return RunError([str(part) for part in command], child.returncode, errors.text())


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the child's process group: SIGTERM first, then SIGKILL; then what a child that exited left."""
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(TERMINATE_GRACE_S)
        except subprocess.TimeoutExpired:
            _signal_group(child.pid, signal.SIGKILL)
            child.wait()
    _signal_group(child.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
