import os
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import structlog
from ostler_agent import process
from ostler_agent.error_tail import MAX_TAIL_BYTES
from ostler_agent.jobs import JobContext
from ostler_agent.process import Daemon, Limits, RunError, daemon, run, spawn
from ostler_common.errors import CancelledError, DeadlineExceededError, FailedPreconditionError
from ostler_common.secret import Secret

AGENT = """
import structlog
from ostler_agent.process import spawn

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
with spawn(["sleep", "60"]) as child:
    print(child.pid)
    input()
"""


def test_output_comes_back() -> None:
    result = run(["sh", "-c", "echo out; echo err >&2"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "out\n", "err\n")


def test_much_output_on_both_pipes_does_not_block() -> None:
    result = run(["sh", "-c", "head -c 1000000 /dev/zero >&2; head -c 1000000 /dev/zero"])
    assert (len(result.stdout), len(result.stderr)) == (1_000_000, 1_000_000)


def test_failure_carries_command_code_and_stderr() -> None:
    with pytest.raises(RunError, match="sh exited with 3: no such thing") as caught:
        run(["sh", "-c", "echo no such thing >&2; exit 3"])
    assert (caught.value.exit_code, caught.value.reason) == (3, "COMMAND_FAILED")
    assert caught.value.command[0] == "sh"


def test_failure_by_signal_is_named() -> None:
    with pytest.raises(RunError, match="was killed by SIGSEGV"):
        run(["sh", "-c", "kill -SEGV $$"])


def test_failure_is_logged_as_a_command_line_to_paste() -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(RunError):
        run(["sh", "-c", "echo no such thing >&2; exit 3"])
    (entry,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert entry["command"] == "sh -c 'echo no such thing >&2; exit 3'"
    assert (entry["exit_code"], entry["stderr"]) == (3, "no such thing")


def test_expected_failure_is_not_logged() -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(RunError):
        run(["sh", "-c", "echo no such thing >&2; exit 3"], expected=("no such thing",))
    assert not [entry for entry in logs if entry["log_level"] == "warning"]


def test_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTLER_SECRET", "seen")
    assert "OSTLER_SECRET" not in run(["env"]).stdout
    assert "LC_ALL=C\n" in run(["env"]).stdout


def test_stdin_is_closed_unless_given() -> None:
    assert run(["cat"]).stdout == ""
    assert run(["cat"], stdin=b"x" * 200_000).stdout == "x" * 200_000
    assert run(["cat"], stdin=Secret(b"quiet")).stdout == "quiet"


def test_missing_program() -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        run(["no-such-program-anywhere"])
    assert caught.value.reason == "TOOL_MISSING"


def test_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(DeadlineExceededError):
        run(["sh", "-c", f"sleep 60 & echo $! $$ > {pids}; wait"], timeout_s=0.5)
    deadline = time.monotonic() + 5  # an orphan is gone once init has seen it
    while any(_alive(int(pid)) for pid in pids.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_alive(int(pid)) for pid in pids.read_text().split())


def test_term_that_is_ignored_becomes_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostler_agent.process.TERMINATE_GRACE_S", 0.2)
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        run(["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], timeout_s=0.3)
    assert time.monotonic() - began < 5


def test_cancellation_stops_the_command() -> None:
    job = JobContext("a")
    threading.Timer(0.2, job.cancel).start()
    with pytest.raises(CancelledError):
        run(["sleep", "60"], cancel=job)


def test_cancelled_before_it_starts_nothing_runs(tmp_path: Path) -> None:
    job = JobContext("a")
    job.cancel()
    with pytest.raises(CancelledError):
        run(["touch", tmp_path / "made"], cancel=job)
    assert not (tmp_path / "made").exists()


def test_output_is_handed_over_as_it_comes() -> None:
    pieces: list[bytes] = []
    run(["sh", "-c", "printf one; sleep 0.1; printf two"], on_stdout=pieces.append)
    assert b"".join(pieces) == b"onetwo"
    assert len(pieces) > 1


def test_block_that_raises_leaves_no_child() -> None:
    with pytest.raises(ValueError, match="block"), spawn(["sleep", "60"]) as child:
        raise ValueError("block")
    assert not _alive(child.pid)


def test_child_dies_with_the_agent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", AGENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"},
    ) as agent:
        assert agent.stdout
        pid = int(agent.stdout.readline())
        while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
            time.sleep(0.01)
        agent.kill()
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(pid)


def test_a_child_whose_agent_died_at_once_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent may die before the child has asked to die with it."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(RunError):
        run(["touch", tmp_path / "ran"])
    assert not (tmp_path / "ran").exists()


def test_limits_hold() -> None:
    with pytest.raises(RunError):
        run(["head", "-c", "400M", "/dev/zero"], limits=Limits(memory_bytes=1 << 20))


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def helper(ready: Path, script: str) -> AbstractContextManager[Daemon]:
    """A shell script as a daemon: `ready` in it is the file that it creates once it is ready."""
    return daemon(["sh", "-c", f"ready={ready}\n{script}"], ready=ready, start_timeout_s=1, stop_timeout_s=1)


def test_a_daemon_runs_while_the_block_lasts(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    with helper(tmp_path / "ready", f"trap 'touch {ended}; exit 0' TERM\ntouch $ready\nsleep 60 & wait"):
        assert not ended.exists()
    assert ended.exists()


def test_a_daemon_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such disk"), helper(tmp_path / "a", "echo no such disk >&2; exit 1"):
        pytest.fail("it never began")
    with (
        pytest.raises(RunError, match="could not write"),
        helper(tmp_path / "b", "trap 'echo could not write >&2; exit 1' TERM\ntouch $ready\nsleep 60 & wait"),
    ):
        pass


def test_a_daemon_that_says_much_goes_on_and_its_last_words_are_kept(tmp_path: Path) -> None:
    script = "head -c 1M /dev/zero >&2; echo no such file >&2\ntrap 'exit 0' TERM\ntouch $ready\nsleep 60 & wait"
    with helper(tmp_path / "ready", script) as running:
        said = running.errors.text()
    assert said.endswith("no such file\n")
    assert len(said) == MAX_TAIL_BYTES
    assert running.errors.text() == said


@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM\ntouch $ready\nsleep 60"], ids=["start", "stop"])
def test_a_daemon_that_hangs_is_killed(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TERMINATE_GRACE_S", 0.1)
    with pytest.raises(DeadlineExceededError) as caught, helper(tmp_path / "ready", script):
        pass
    assert caught.value.reason == "COMMAND_TIMEOUT"


def test_a_cancelled_job_does_not_wait_for_its_daemon(tmp_path: Path) -> None:
    job = JobContext("daemon")
    threading.Timer(0.2, job.cancel).start()
    command = ["sh", "-c", "sleep 60"]
    with (
        pytest.raises(CancelledError),
        daemon(command, ready=tmp_path / "ready", start_timeout_s=30, stop_timeout_s=1, cancel=job),
    ):
        pytest.fail("it never began")
