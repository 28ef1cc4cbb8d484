"""The audit log's hash chain: linked by several replicas at once, pruned, followed, verified after tampering."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError, UnavailableError
from ostler_control import events
from ostler_control.database import transaction
from ostler_control.events import linking, verify, watch
from ostler_control.events.chain import Content, Mark, Reason, digest_of
from ostler_control.models import Event, EventChain, db, now

from tests import databases

YEAR = datetime.timedelta(days=365)
WRITERS, EVENTS_PER_WRITER, REPLICAS = 4, 30, 3


@pytest.fixture
def postgresql_database(shared_postgresql_database: str) -> Iterator[str]:
    databases.empty(shared_postgresql_database)
    with databases.bound(shared_postgresql_database, migrate=False) as url:
        yield url


def write(count: int, name: str = "web") -> None:
    for number in range(count):
        events.record("vm.start", events.Outcome.STARTED, "ada", "vm", f"id-{number}", name, "went “well”\n")


def at(sequence: int) -> Event:
    found: Event = Event.get(Event.sequence == sequence)
    return found


def test_the_digest_of_an_event_never_changes() -> None:
    """A log that an older release linked must still verify: this is the format that docs/operations.md describes."""
    time = datetime.datetime(2026, 1, 2, 3, 4, 5)
    content = Content("i", time, "vm.start", "succeeded", "ada", "vm", "v", "web “1”", "a", "line\nline", "")
    first = digest_of("", 1, content)
    assert first == "0e85e0b902037f3dee43852a953b9cbfe69c362ca7367dace60339a852f4b904"
    assert digest_of(first, 2, content) != digest_of("", 2, content)


def test_postgresql_links_many_events_in_as_many_statements_as_one(
    postgresql_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, counts = db.obj.execute_sql, list[int]()
    for count in (1, 1, 40):  # the first makes the chain
        write(count)
        counts.append(0)

        # Any: peewee's parameters and cursor.
        def counted(*statement: Any) -> Any:
            counts[-1] += 1
            return execute(*statement)

        with monkeypatch.context() as patched:
            patched.setattr(db.obj, "execute_sql", counted)
            assert linking.link_events() == count
    assert counts[2] == counts[1]
    assert [event.sequence for event in Event.select().order_by(Event.create_time)] == list(range(1, 43))
    verdict = verify.verify()
    assert (verdict.first_break, verdict.end.sequence) == (None, 42)


def test_writers_and_replicas_at_once_make_one_chain(fresh_database: str) -> None:
    done = threading.Event()

    def replica() -> None:
        while not done.is_set():
            linking.link_events()

    def writer(number: int) -> None:
        for turn in range(EVENTS_PER_WRITER):
            with transaction():
                write(1, f"w{number}-{turn}")

    replicas = [threading.Thread(target=replica) for _ in range(REPLICAS)]
    writers = [threading.Thread(target=writer, args=(number,)) for number in range(WRITERS)]
    for thread in (*replicas, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in replicas:
        thread.join()
    verdict = verify.verify()
    assert (verdict.first_break, verdict.checked_count) == (None, WRITERS * EVENTS_PER_WRITER)
    assert [row.sequence for row in Event.select().order_by(Event.sequence)] == [*range(1, verdict.checked_count + 1)]
    for number in range(WRITERS):
        names = [row.resource_name for row in Event.select().order_by(Event.sequence)]
        own = [name for name in names if name.startswith(f"w{number}-")]
        assert own == [f"w{number}-{turn}" for turn in range(EVENTS_PER_WRITER)], "a writer's events keep their order"


def test_an_event_that_was_rolled_back_is_not_in_the_chain(fresh_database: str) -> None:
    write(1)
    with transaction(), db.savepoint() as begun:
        write(1)
        begun.rollback()
    write(1)
    assert (verify.verify().checked_count, verify.verify().first_break) == (2, None)


def test_numbers_that_were_given_and_rolled_back_are_given_again(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies while it links, or an outage of the database, leaves no gap."""
    write(2)
    linking.link_all()
    write(3)
    with monkeypatch.context() as dies:
        given: list[int] = []

        def die(previous: str, sequence: int, content: Content) -> str:
            given.append(sequence)
            if sequence == 4:
                raise RuntimeError
            return digest_of(previous, sequence, content)

        dies.setattr(linking, "digest_of", die)
        with pytest.raises(RuntimeError):
            linking.link_events()
        assert given == [3, 4]
    verdict = verify.verify()
    assert (verdict.first_break, verdict.checked_count, verdict.end.sequence) == (None, 5, 5)


def test_a_log_that_lost_its_newest_events_with_its_database_is_whole_and_goes_on(fresh_database: str) -> None:
    """A restored backup, or PostgreSQL on a disk that lied: what was committed last is gone, with the chain's own end.
    Only who has kept a digest of what is gone can tell, and cannot tell it from a log that was written anew."""
    write(5)
    before = verify.verify().end
    write(5)
    lost = verify.verify().end
    Event.delete().where(Event.sequence > before.sequence).execute()
    EventChain.update(sequence=before.sequence, digest=before.digest).execute()
    assert (verify.verify().first_break, verify.verify(before).first_break) == (None, None)
    found = verify.verify(lost).first_break
    assert found is not None
    assert (found.reason, found.sequence) == (Reason.NOT_KNOWN, 10)
    assert "restored from a backup" in found.message
    write(7, "since")
    verdict = verify.verify(before)
    assert (verdict.first_break, verdict.end.sequence) == (None, 12)
    found = verify.verify(lost).first_break
    assert found is not None
    assert (found.reason, found.sequence) == (Reason.NOT_KNOWN, 10)
    assert "restored from a backup" in found.message


def _delete_start_and_anchor() -> None:
    last = at(3)
    Event.delete().where(Event.sequence <= 3).execute()
    EventChain.update(anchor_sequence=3, anchor_digest=last.digest).execute()


def _hide_an_event_before_the_start() -> None:
    write(1)
    Event.update(sequence=0).where(Event.sequence.is_null()).execute()


def _rewrite_the_end() -> None:
    """As somebody would who knows how digests are made, and forgets the chain's own row."""
    digest = at(7).digest or ""
    Event.update(actor="mallory").where(Event.sequence == 8).execute()
    for row in Event.select().where(Event.sequence >= 8).order_by(Event.sequence):
        digest = digest_of(digest, row.sequence or 0, linking.content_of(row))
        Event.update(digest=digest).where(Event.id == row.id).execute()


@pytest.mark.parametrize(
    ("tamper", "reason", "sequence"),
    [
        (lambda: Event.update(actor="mallory").where(Event.sequence == 4).execute(), Reason.ALTERED, 4),
        (lambda: Event.update(create_time=now() - YEAR).where(Event.sequence == 4).execute(), Reason.ALTERED, 4),
        (lambda: Event.update(account_id="other").where(Event.sequence == 1).execute(), Reason.ALTERED, 1),
        (lambda: Event.update(digest="0" * 64).where(Event.sequence == 10).execute(), Reason.ALTERED, 10),
        (lambda: Event.delete().where(Event.sequence == 5).execute(), Reason.MISSING, 5),
        (lambda: Event.delete().where(Event.sequence <= 2).execute(), Reason.MISSING, 1),
        (lambda: Event.update(sequence=4).where(Event.sequence == 5).execute(), Reason.MISSING, 4),
        (lambda: Event.update(sequence=0).where(Event.sequence == 10).execute(), Reason.END_MISSING, 10),
        (_hide_an_event_before_the_start, Reason.ALTERED, 0),
        (lambda: Event.delete().where(Event.sequence > 8).execute(), Reason.END_MISSING, 9),
        (lambda: Event.delete().execute(), Reason.END_MISSING, 1),
        (_delete_start_and_anchor, Reason.START_DIFFERS, 4),
        (_rewrite_the_end, Reason.ALTERED, 10),
    ],
)
def test_the_first_broken_event_is_named(
    fresh_database: str, tamper: Callable[[], object], reason: Reason, sequence: int
) -> None:
    write(10)
    assert verify.verify().first_break is None
    tamper()
    found = verify.verify().first_break
    assert found is not None
    assert (found.reason, found.sequence) == (reason, sequence)


def test_a_log_that_was_written_anew_is_known_by_a_digest_kept_elsewhere(fresh_database: str) -> None:
    write(10)
    kept = verify.verify().end
    assert verify.verify(kept).first_break is None
    _rewrite_the_end()
    EventChain.update(digest=at(10).digest).execute()
    assert verify.verify().first_break is None, "nothing in the database tells"
    found = verify.verify(kept).first_break
    assert found is not None
    assert (found.reason, found.sequence) == (Reason.NOT_KNOWN, 10)
    later = verify.verify(Mark(11, "0")).first_break
    assert later is not None
    assert later.reason is Reason.NOT_KNOWN


def test_expired_events_leave_an_anchor(fresh_database: str) -> None:
    write(6, "old")
    linking.link_all()
    Event.update(create_time=now() - YEAR).execute()  # what the digests say of them is of no interest any more
    known = Mark(6, at(6).digest or "")
    write(4, "new")
    assert linking.prune(datetime.timedelta(days=90)) == 6
    # As one sees it who verifies just then.
    assert verify._follow(linking.read_chain(), None).first_break is None
    assert linking.prune(datetime.timedelta(0)) == 0, "at most once an hour"
    verdict = verify.verify(known)
    assert (verdict.first_break, verdict.start, verdict.checked_count) == (None, known, 5)
    assert at(11).type == linking.PRUNED
    with pytest.raises(FailedPreconditionError, match="expired") as error:
        verify.verify(Mark(5, "0"))
    assert error.value.reason == "EVENT_EXPIRED"

    EventChain.update(anchor_time=now() - YEAR).execute()
    assert linking.prune(-datetime.timedelta(days=1)) == 5, "the whole log, with the event that told of the last time"
    write(2)
    verdict = verify.verify()
    assert (verdict.first_break, verdict.start.sequence, verdict.checked_count) == (None, 11, 3)
    Event.delete().where(Event.type == linking.PRUNED).execute()
    assert verify.verify().first_break is not None


def test_a_replica_that_holds_the_chain_stops_linking_and_nothing_else(
    postgresql_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "_MAX_WAIT_S", 0.0)
    write(1)
    linking.link_all()
    holds, release = threading.Event(), threading.Event()

    def stopped_replica() -> None:
        with transaction():
            linking._locked_chain()
            holds.set()
            release.wait(60)

    thread = threading.Thread(target=stopped_replica)
    thread.start()
    assert holds.wait(60)
    write(1)  # changes of the fleet do not wait
    assert linking.link_events() is None
    with pytest.raises(UnavailableError) as error:
        verify.verify()
    assert error.value.reason == "EVENTS_BUSY"
    release.set()
    thread.join()
    assert verify.verify().checked_count == 2


def test_a_deleted_chain_row_is_told(fresh_database: str) -> None:
    write(3)
    linking.link_all()
    EventChain.delete().execute()
    Event.delete().where(Event.sequence <= 2).execute()
    write(1)
    found = verify.verify().first_break
    assert found is not None
    assert (found.reason, found.sequence) == (Reason.MISSING, 1)


def test_following_gives_each_event_once_and_signs_of_life(fresh_database: str) -> None:
    write(3)
    linking.link_all()
    turns: list[float] = []

    def pause(seconds: float) -> bool:
        turns.append(seconds)
        if len(turns) == 1:
            write(2, "later")
            linking.link_all()
        return len(turns) == 4

    batches = list(watch.follow(lambda: Event.select(), 1, pause, poll_s=10.0))
    found = [([row.sequence for row in batch.events], batch.sequence) for batch in batches]
    assert found == [([2, 3], 3), ([4, 5], 5), ([], 5)]
    filtered = watch.follow(lambda: Event.select().where(Event.resource_name == "later"), 0, lambda _: True)
    assert [[row.sequence for row in batch.events] for batch in filtered] == [[4, 5]]
    assert watch.start_at(None) == 5
    assert watch.start_at(at(4).create_time) == 3


@pytest.mark.parametrize(("after", "reason"), [(0, "EVENTS_EXPIRED"), (4, "EVENT_UNKNOWN")])
def test_following_from_where_there_is_nothing_is_refused(fresh_database: str, after: int, reason: str) -> None:
    write(1, "old")
    Event.update(create_time=now() - YEAR).execute()
    write(1)
    linking.prune(datetime.timedelta(days=90))
    linking.link_all()
    with pytest.raises(FailedPreconditionError) as error:
        next(watch.follow(lambda: Event.select(), after, lambda _: True))
    assert error.value.reason == reason


def test_a_large_log_is_followed_and_verified_in_pages(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (linking, watch):
        monkeypatch.setattr(module, "_BATCH", 4)
    monkeypatch.setattr(verify, "_PAGE", 4)
    write(10)
    linking.link_all()
    assert (verify.verify().checked_count, verify.verify().first_break) == (10, None)
    batches = watch.follow(lambda: Event.select(), 0, lambda _: True)
    assert [row.sequence for batch in batches for row in batch.events] == [*range(1, 11)]


def test_finding_what_is_not_linked_reads_no_other_events(sqlite_database: str) -> None:
    query = str(linking._unlinked().order_by(Event.create_time).limit(1))
    plan = db.execute_sql(f"EXPLAIN QUERY PLAN {query}").fetchall()
    assert "event_sequence_create_time" in plan[0][-1], plan
    assert len(plan) == 1, "sorted by the index"
