"""The measurements, in the order in which they are made of one fleet."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ostler.client import Profile, profile
from ostler_common.errors import OstlerError
from ostler_control import database
from ostler_control.models import db

from tests.bench.fleet import load
from tests.bench.fleet.site import Replica, Site, new_site, wait_for_hosts

_UP_TIMEOUT_S = 600.0
_SETTLE_S = 15.0


@dataclass(frozen=True)
class Sizes:
    """How large the fleet is, how many VMs are created at once, and how long rest is watched. share: of a core, for
    each control plane; 0: as much as it gets."""

    hosts: int = 1_000
    vms: int = 10_000
    creates: int = 500
    rest_s: float = 60.0
    work_s: float = 0.0
    replicas: int = 1
    passes: int = 5
    share: float = 0.0


@dataclass(frozen=True)
class Line:
    """What was measured, the figure, and the goal; ok: whether it is reached (None: there is no goal)."""

    what: str
    figure: str
    goal: str = ""
    ok: bool | None = None


def measure(kind: str, sizes: Sizes) -> Iterator[Line]:
    """kind: "sqlite" or "postgresql"."""
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(new_site(kind, sizes.hosts, sizes.vms, sizes.work_s, sizes.replicas, sizes.share))
        replicas = [stack.enter_context(site.control(0))]
        up_s = wait_for_hosts(site, replicas[0], _UP_TIMEOUT_S)
        allowed_s = max(sizes.hosts / 5_000 * 60, 5.0)
        yield Line(f"{sizes.hosts:,} hosts up after", f"{up_s:.1f} s", f"{allowed_s:.0f} s", up_s <= allowed_s)
        for number in range(1, sizes.replicas):
            replicas.append(stack.enter_context(site.control(number)))
        profiles = [_profile(site, replica) for replica in replicas]
        for one in profiles:
            _wait_for_answer(one)
        time.sleep(_SETTLE_S if sizes.rest_s > _SETTLE_S else sizes.rest_s)
        yield from _rest(replicas, sizes)
        yield from _lists(profiles[0], sizes)
        yield from _creates(site, replicas, profiles, sizes)


def _rest(replicas: Sequence[Replica], sizes: Sizes) -> Iterator[Line]:
    before, updates = [replica.use for replica in replicas], _row_updates()
    begin = time.monotonic()
    time.sleep(sizes.rest_s)
    took_s = time.monotonic() - begin
    after = [replica.use for replica in replicas]
    for number, (first, last) in enumerate(zip(before, after, strict=True)):
        which = f" (replica {number + 1})" if len(replicas) > 1 else ""
        yield Line(f"CPU at rest{which}", f"{(last.cpu_s - first.cpu_s) / took_s:.1%} of a core")
        yield Line(f"resident memory at rest{which}", f"{last.rss_bytes >> 20} MiB")
        yield Line(f"threads at rest{which}", str(last.threads))
    written = sum(last.written_bytes - first.written_bytes for first, last in zip(before, after, strict=True))
    if updates is None:
        yield Line("written at rest", f"{written / took_s / 1024:.0f} KiB/s")
    else:
        per_s = ((_row_updates() or 0) - updates) / took_s
        # Each host's row is written about once a minute: a shorter rest may see none of that, or all at once.
        allowed = max(sizes.hosts / 30, 10.0)
        yield Line("row updates at rest", f"{per_s:.1f} a second", f"{allowed:.0f} a second", per_s <= allowed)


def _row_updates() -> int | None:
    """Rows updated so far in Ostler's tables; None where the database does not count them."""
    if database.is_sqlite():
        return None
    with database.session():
        db.execute_sql("SELECT pg_stat_clear_snapshot()")
        row = db.execute_sql("SELECT sum(n_tup_upd) FROM pg_stat_user_tables").fetchone()
        return int(row[0] or 0)


def _lists(one: Profile, sizes: Sizes) -> Iterator[Line]:
    small = load.list_vms(one, 100, sizes.passes)
    yield Line("a page of 100 VMs, median", f"{small.p50_ms:.0f} ms")
    yield Line("a page of 100 VMs, 99th percentile", f"{small.p99_ms:.0f} ms", "50 ms", small.p99_ms <= 50)
    whole = load.list_vms(one, 500, sizes.passes)
    yield Line(f"all {whole.count:,} VMs in pages of 500", f"{whole.all_s:.2f} s")


def _creates(site: Site, replicas: Sequence[Replica], profiles: Sequence[Profile], sizes: Sizes) -> Iterator[Line]:
    load.create(site, replicas, profiles, min(sizes.creates, 32), "warm")
    alone = load.create(site, replicas[:1], profiles[:1], sizes.creates, "one")
    goal = 100 if database.is_sqlite() else 60
    yield from _of_creates(alone, sizes, "", goal)
    if len(replicas) > 1:
        many = load.create(site, replicas, profiles, sizes.creates, "many")
        yield from _of_creates(many, sizes, f" with {len(replicas)} replicas", 0)
        factor = many.per_s / (alone.per_s or 1)
        yield Line(f"{len(replicas)} replicas against one", f"{factor:.2f} times the creates", "2 times", factor >= 2)


def _of_creates(found: load.Creates, sizes: Sizes, where: str, goal: int) -> Iterator[Line]:
    wanted = (f"{goal} a second", found.per_s >= goal) if goal else ("", None)
    yield Line(f"VMs created{where}, {sizes.creates:,} at once", f"{found.per_s:.1f} a second", *wanted)
    yield Line(f"the same, acknowledged{where}", f"{found.acknowledged_per_s:.1f} a second")
    yield Line(f"slowest answer to a create{where}", f"{found.slowest_answer_s:.1f} s", "30 s", not found.refused)
    yield Line(f"CPU of each create{where}", f"{found.cpu_ms:.0f} ms")
    yield Line(f"most threads meanwhile{where}", str(found.max_threads))
    wrong = Counter(found.refused + found.failed)
    kinds = ", ".join(f"{count} {reason}" for reason, count in wrong.most_common())
    yield Line(f"creates refused or failed{where}", f"{wrong.total()}{f' ({kinds})' if kinds else ''}", "0", not wrong)
    yield Line(f"created VMs lost{where}", str(found.lost), "0", not found.lost)
    yield Line(f"hosts over their capacity or wrongly added up{where}", str(found.overfull), "0", not found.overfull)


def _profile(site: Site, replica: Replica) -> Profile:
    return dataclasses.replace(profile.load(site.profile), control_address=f"127.0.0.1:{replica.port}")


def _wait_for_answer(one: Profile) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            load.list_vms(one, 500, 1)
            return
        except OstlerError:
            assert time.monotonic() < deadline, "a replica does not answer"
            time.sleep(0.2)
