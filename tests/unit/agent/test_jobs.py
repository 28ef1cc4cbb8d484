import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import job_pb2, volume_pb2
from ostler_agent.jobs import JobContext, Jobs
from ostler_agent.journal import Journal, Record, digest
from ostler_common.errors import (
    AlreadyExistsError,
    CancelledError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OstlerError,
    UnavailableError,
    from_status,
)
from ostler_common.redaction import redacted

PASSPHRASE = b"do-not-show-me-anywhere"
State = job_pb2.JobUpdate.State


def request(size: int = 512, attempt: int = 1, passphrase: bytes = PASSPHRASE) -> agent_pb2.CreateVolumeRequest:
    return agent_pb2.CreateVolumeRequest(
        operation=job_pb2.OperationRef(id="op.1", attempt=attempt),
        volume=volume_pb2.VolumeRef(volume_id="v", key=volume_pb2.VolumeKey(key_id="k", passphrase=passphrase)),
        size_bytes=size,
    )


def result(size: int = 512) -> volume_pb2.VolumeInfo:
    return volume_pb2.VolumeInfo(volume_id="v", virtual_size_bytes=size)


class Work:
    """Counts its runs; waits to be let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self.error = error
        self.started = threading.Event()
        self.go = threading.Event()

    def __call__(self, job: JobContext) -> Message:
        self.runs += 1
        self.started.set()
        with job.on_cancel(self.go.set):
            assert self.go.wait(10)
        job.check()
        if self.error:
            raise self.error
        return result()


def begin(jobs: Jobs, work: Work, attempt: int = 1, size: int = 512) -> Iterator[job_pb2.JobUpdate]:
    message = request(size, attempt)
    return jobs.run(message.operation, "volume.create", message, work)


def last(updates: Iterator[job_pb2.JobUpdate]) -> job_pb2.JobUpdate:
    return list(updates)[-1]


def finished(error: Exception | None = None) -> Work:
    work = Work(error)
    work.go.set()
    return work


def error_of(update: job_pb2.JobUpdate) -> OstlerError:
    return from_status(update.error)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs")


def test_a_repeat_attaches_and_both_hear_the_result(jobs: Jobs) -> None:
    work = Work()
    first, second = begin(jobs, work), begin(jobs, work)
    assert next(first).state == next(second).state == State.RUNNING
    work.go.set()
    assert last(first) == last(second)
    assert jobs.get("op.1").volume == result()
    assert work.runs == 1


def test_a_repeat_after_the_end_replays_even_after_a_restart(jobs: Jobs, tmp_path: Path) -> None:
    first = last(begin(jobs, finished()))
    again, other = finished(), finished()
    assert last(begin(jobs, again)) == last(begin(Jobs(tmp_path / "jobs"), other)) == first
    assert again.runs == other.runs == 0


def test_the_job_goes_on_without_its_caller(jobs: Jobs) -> None:
    work = Work()
    updates = begin(jobs, work)
    next(updates)
    del updates
    work.go.set()
    assert last(jobs.watch("op.1")).state == State.SUCCEEDED


def test_a_stale_attempt_is_refused_during_and_after(jobs: Jobs) -> None:
    work = Work()
    begin(jobs, work, attempt=2)
    for _ in range(2):
        with pytest.raises(FailedPreconditionError) as caught:
            begin(jobs, work, attempt=1)
        assert caught.value.reason == "STALE_ATTEMPT"
        work.go.set()
        assert last(jobs.watch("op.1")).state == State.SUCCEEDED


def test_a_higher_attempt_fences_the_lower_one(jobs: Jobs, tmp_path: Path) -> None:
    last(begin(jobs, finished(), attempt=1))
    assert last(begin(jobs, finished(), attempt=3)).state == State.SUCCEEDED
    with pytest.raises(FailedPreconditionError):
        begin(Jobs(tmp_path / "jobs"), finished(), attempt=2)


def test_failed_runs_again_only_for_a_higher_attempt(jobs: Jobs) -> None:
    failing = finished(AlreadyExistsError("there", "VOLUME_EXISTS", {"volume": "v"}))
    update = last(begin(jobs, failing))
    error = error_of(update)
    assert (type(error), error.reason, error.metadata) == (AlreadyExistsError, "VOLUME_EXISTS", {"volume": "v"})
    assert last(begin(jobs, failing)) == update
    assert failing.runs == 1
    assert last(begin(jobs, finished(), attempt=2)).state == State.SUCCEEDED


def test_another_request_under_the_same_id_is_refused(jobs: Jobs) -> None:
    last(begin(jobs, finished()))
    with pytest.raises(InvalidArgumentError) as caught:
        begin(jobs, finished(), size=1024)
    assert caught.value.reason == "OPERATION_ID_REUSED"


def test_cancel_reaches_the_work_and_is_recorded(jobs: Jobs) -> None:
    work = Work()
    updates = begin(jobs, work)
    assert work.started.wait(10)
    jobs.cancel("op.1")
    assert last(updates).state == State.CANCELLED
    jobs.cancel("op.1")
    assert jobs.get("op.1").state == State.CANCELLED


def test_an_unknown_job(jobs: Jobs) -> None:
    for call in (jobs.get, jobs.watch, jobs.cancel):
        with pytest.raises(NotFoundError):
            call("nothing")
    with pytest.raises(NotFoundError):
        jobs.get("../../etc/passwd")


@pytest.mark.parametrize("bad", ["", "a/b", "x" * 129, "a b"])
def test_a_bad_operation_id(jobs: Jobs, bad: str) -> None:
    with pytest.raises(InvalidArgumentError):
        jobs.run(job_pb2.OperationRef(id=bad, attempt=1), "k", request(), finished())


def test_percent_never_falls() -> None:
    seen: list[int] = []
    job = JobContext("a", changed=lambda progress: seen.append(progress.percent))
    job.report("one", 5, 10)
    job.report("two", 1, 10)
    job.report("three")
    job.report("four", percent=70)
    assert seen == [50, 50, 50, 70]


def test_a_bug_is_reported_without_its_text(jobs: Jobs) -> None:
    error = error_of(last(begin(jobs, finished(ValueError("perhaps a secret")))))
    assert error.reason == "INTERNAL"
    assert "perhaps" not in str(error)


def test_no_passphrase_in_the_journal(jobs: Jobs, tmp_path: Path) -> None:
    last(begin(jobs, finished()))
    for path in (tmp_path / "jobs").iterdir():
        assert PASSPHRASE not in path.read_bytes()
        assert b"key_id" in path.read_bytes() or b"keyId" in path.read_bytes()


def test_the_digest_leaves_keys_and_attempts_aside_and_nothing_else() -> None:
    assert digest(request()) == digest(request(attempt=2, passphrase=b"other"))
    assert digest(request()) != digest(request(size=1024))


def test_redaction_goes_into_lists() -> None:
    from ostler.types.v1 import vm_pb2

    spec = vm_pb2.VmSpec(name="n")
    spec.disks.add().volume.key.passphrase = PASSPHRASE
    assert PASSPHRASE not in redacted(spec).SerializeToString()
    assert spec.disks[0].volume.key.passphrase == PASSPHRASE


def left_running(tmp_path: Path) -> None:
    record = Record.begin("op.1", 1, "volume.create", digest(request()), redacted(request()))
    record.facts["inode"] = "7"
    Journal(tmp_path / "jobs").save(record)


def test_recovery_reports_the_true_outcome(tmp_path: Path) -> None:
    left_running(tmp_path)
    jobs = Jobs(tmp_path / "jobs")

    def recover(record: Record) -> Message:
        assert record.request_as(agent_pb2.CreateVolumeRequest).volume.volume_id == "v"
        assert record.facts == {"inode": "7"}
        return result()

    jobs.on_recover("volume.create", recover)
    jobs.recover()
    assert last(begin(jobs, finished())).volume == result()


def test_recovery_without_a_hook_or_with_a_broken_one_is_a_failure_that_can_be_tried_again(tmp_path: Path) -> None:
    left_running(tmp_path)
    jobs = Jobs(tmp_path / "jobs")
    jobs.recover()
    assert error_of(jobs.get("op.1")).reason == "INTERRUPTED"
    assert last(begin(jobs, finished(), attempt=2)).state == State.SUCCEEDED


def test_a_job_that_goes_on_waits_for_its_pools_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostler_agent.jobs.RESUME_INTERVAL_S", 0)
    left_running(tmp_path)
    jobs, tries = Jobs(tmp_path / "jobs"), []

    def resume(record: Record, job: JobContext) -> Message:
        tries.append(record.id)
        if len(tries) < 3:
            raise UnavailableError("no password yet", "POOL_NEEDS_CREDENTIALS")
        return result()

    jobs.on_resume("volume.create", resume)
    jobs.recover()
    assert last(jobs.watch("op.1")).volume == result()
    assert tries == ["op.1"] * 3


def test_what_a_failed_attempt_remembered_the_next_one_knows(jobs: Jobs) -> None:
    def fail(job: JobContext) -> None:
        job.remember(inode="7")
        raise AlreadyExistsError("there", "VOLUME_EXISTS")

    seen: list[dict[str, str]] = []
    first, second = request(), request(attempt=2)
    last(jobs.run(first.operation, "volume.create", first, fail))
    last(jobs.run(second.operation, "volume.create", second, lambda job: seen.append(job.facts)))
    assert seen == [{"inode": "7"}]


def test_a_quiet_job_is_told_of_again_so_that_a_lost_caller_is_noticed(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostler_agent.jobs.HEARTBEAT_S", 0.01)
    work = Work()
    updates = begin(jobs, work)
    assert [next(updates).state for _ in range(5)] == [State.RUNNING] * 5
    work.go.set()


def test_waiting_ends_with_the_job() -> None:
    job = JobContext("a")
    threading.Timer(0.1, job.cancel).start()
    with pytest.raises(CancelledError):
        job.wait(60)


def test_a_callback_taken_back_is_not_called() -> None:
    calls: list[str] = []
    job = JobContext("a")
    with job.on_cancel(lambda: calls.append("gone")):
        pass
    job.on_cancel(lambda: calls.append("kept"))
    job.cancel()
    job.cancel()
    job.on_cancel(lambda: calls.append("late"))
    assert calls == ["kept", "late"]


def test_stopping_interrupts_what_does_not_end_and_takes_no_more(jobs: Jobs) -> None:
    updates = begin(jobs, Work())
    jobs.stop(0.1)
    assert error_of(last(updates)).reason == "INTERRUPTED"
    with pytest.raises(OstlerError) as caught:
        begin(jobs, finished(), attempt=2)
    assert caught.value.reason == "AGENT_STOPPING"


def test_old_records_are_pruned_but_not_those_named(tmp_path: Path) -> None:
    left_running(tmp_path)
    journal = Journal(tmp_path / "jobs")
    journal.prune(2**40, keep={"op.1"})
    assert list(journal.ids()) == ["op.1"]
    journal.prune(2**40, keep=set())
    assert list(journal.ids()) == []
