import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import structlog
from ostler_agent.jobs import JobContext
from ostler_agent.process import Limits, RunError, run, spawn
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


def test_limits_hold() -> None:
    with pytest.raises(RunError):
        run(["head", "-c", "400M", "/dev/zero"], limits=Limits(memory_bytes=1 << 20))


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
