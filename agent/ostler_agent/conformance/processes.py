"""The processes that checks start: found through /proc, and adopted when their parents exit."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

_PROC = Path("/proc")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def supervise(run: Callable[[int], int]) -> int:
    """Runs a function in a child process and returns its exit code. The function receives this process's id.

    This process adopts the daemons that the child starts, so that all of them are its descendants, reaps those that
    exit, and kills those that are left at the end. Call it before the process starts a thread.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    supervisor = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run_child(run, supervisor)
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child handles it, and cleans up
    try:
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == child:
                return os.waitstatus_to_exitcode(status)
    finally:
        signal.signal(signal.SIGINT, previous)
        kill(descendants(supervisor))


def descendants(pid: int) -> set[int]:
    """The ids of a process's children, their children and so on, without zombies."""
    children: dict[int, list[int]] = {}
    zombies = set()
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (found := _parent_and_state(entry)):
            parent, state = found
            children.setdefault(parent, []).append(int(entry.name))
            if state == "Z":
                zombies.add(int(entry.name))
    found_ids: set[int] = set()
    pending = [pid]
    while pending:
        for child in children.get(pending.pop(), []):
            found_ids.add(child)
            pending.append(child)
    return found_ids - zombies


def referring_to(directory: Path) -> set[int]:
    """The ids of processes with a path below a directory in their command line, or open, or as working directory."""
    text = str(directory)
    return {int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal() and _refers_to(entry, text)}


def command_line(pid: int) -> str:
    """A process's command line for people; "" if it has exited."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def in_own_cgroup(pid: int) -> bool:
    """Whether a process is in the control group of this process."""
    try:
        return (_PROC / str(pid) / "cgroup").read_bytes() == (_PROC / "self" / "cgroup").read_bytes()
    except OSError:
        return False


def kill(pids: Collection[int]) -> None:
    """Kills processes; ignores those that have exited."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _run_child(run: Callable[[int], int], supervisor: int) -> NoReturn:
    code = 1
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        code = run(supervisor)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _parent_and_state(entry: Path) -> tuple[int, str] | None:
    try:
        # proc(5): "pid (comm) state ppid ..."; comm may contain anything.
        state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(parent), state


def _refers_to(entry: Path, text: str) -> bool:
    try:
        if text.encode() in (entry / "cmdline").read_bytes():
            return True
        links = [entry / "cwd", *(entry / "fd").iterdir()]
    except OSError:
        return False
    for link in links:
        try:
            if os.readlink(link).startswith(text):
                return True
        except OSError:
            continue
    return False


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
