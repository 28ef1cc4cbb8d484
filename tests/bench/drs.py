"""How fast plans of DRS are, and how good: `python -m tests.bench.drs [speed|greedy|optimum|weight ...]`.

Times are CPU seconds of one core, so that a busy machine does not spoil them. The optimum needs `ostler[bench]`.
"""

from __future__ import annotations

import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from ostler_control.drs import Plan, Settings, Snapshot, plan

from tests.bench.clusters import Shape, make
from tests.bench.drs_reference import Reference

GIB = 1 << 30
# No imbalance is allowed: plans end for no other reason than that nothing more can be done.
STRICT = Settings(imbalance=1.0)
LEAST_IMBALANCE = Settings(imbalance=1.0, cost_weight=0.0)
SPEED = (
    (Shape(15, 150), 0.020, 5),
    (Shape(1_000, 20_000, groups=200), 1.0, 2),
    (Shape(10_000, 200_000, groups=200), 20.0, 1),
)
MEMORY_LIMIT_MIB = 2048
TIMES_FASTER = 100
SEEDS = 50
OPTIMUM_WITHIN = 0.05


def _timed(snapshot: Snapshot, settings: Settings, times: int = 1) -> tuple[float, Plan]:
    best, found = float("inf"), None
    for _ in range(times):
        begin = time.process_time()
        found = plan(snapshot, settings)
        best = min(best, time.process_time() - begin)
    assert found is not None
    return best, found


def _verdict(good: bool) -> str:
    return "ok" if good else "TOO MUCH"


def _one_speed(number: int) -> None:
    shape, limit_s, times = SPEED[number]
    snapshot = make(shape)
    took_s, found = _timed(snapshot, Settings(), times)
    longest_s, whole = _timed(snapshot, STRICT, times)
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{shape.hosts:>6,} hosts {shape.vms:>8,} VMs: {took_s * 1000:9.1f} ms for {len(found.moves):>2} moves with "
        f"default settings, {longest_s * 1000:9.1f} ms for {len(whole.moves):>2} with drs.imbalance 1.0 (at most "
        f"{limit_s * 1000:,.0f} ms: {_verdict(max(took_s, longest_s) <= limit_s)}), {mib:,} MiB "
        f"({_verdict(mib <= MEMORY_LIMIT_MIB)})",
        flush=True,
    )
    sys.exit(0 if max(took_s, longest_s) <= limit_s and mib <= MEMORY_LIMIT_MIB else 1)


def speed() -> bool:
    """Each size in its own process, so that its memory is its own."""
    codes = [
        subprocess.run([sys.executable, "-m", "tests.bench.drs", f"speed-{number}"], check=False).returncode
        for number in range(len(SPEED))
    ]
    return not any(codes)


def greedy() -> bool:
    """Against the plain way: how much faster, and never less even."""
    snapshot = make(Shape(100, 3_000))
    reference = Reference(snapshot, STRICT)
    begin = time.process_time()
    rounds = 2
    for _ in range(rounds):
        reference.step()
    round_s = (time.process_time() - begin) / rounds
    took_s, found = _timed(snapshot, STRICT, 2)
    slow_s, best = _timed(snapshot, LEAST_IMBALANCE)
    times, slow_times = round_s * len(found.moves) / took_s, round_s * len(best.moves) / slow_s
    print(
        f"100 hosts, 3,000 VMs, {len(found.moves)} moves: {took_s:.3f} s, and {slow_s:.2f} s with drs.cost.weight 0; "
        f"the plain way {round_s:.1f} s a move: {times:,.0f} and {slow_times:,.0f} times faster "
        f"(at least {TIMES_FASTER}: {_verdict(min(times, slow_times) >= TIMES_FASTER)})",
        flush=True,
    )
    compared, worse, better = 0, 0, 0
    for seed in range(SEEDS):
        chance = random.Random(seed)
        hosts = chance.randrange(6, 24)
        shape = Shape(
            hosts, hosts * chance.randrange(6, 10), chance.randrange(8), 4, models=chance.choice([1, 3]), seed=seed
        )
        cluster = make(shape)
        levels = Reference(cluster, LEAST_IMBALANCE).run(20)
        for most in (1, 5, 20):
            ours = plan(cluster, Settings(imbalance=1.0, cost_weight=0.0, max_migrations=most)).imbalance_after
            theirs = levels[min(most, len(levels) - 1)]
            compared += 1
            worse += ours > theirs + 1e-9
            better += ours < theirs - 1e-9
    print(
        f"imbalance after 1, 5 and 20 moves on {SEEDS} clusters: better than the plain way {better} times, the same "
        f"{compared - better - worse}, worse {worse} ({_verdict(not worse)})",
        flush=True,
    )
    return min(times, slow_times) >= TIMES_FASTER and not worse


def optimum() -> bool:
    """Against the best possible plan of as many moves."""
    from tests.bench.drs_optimum import least_imbalance

    good = True
    for most in (5, 50):
        over, unproved = [], 0
        for seed in range(16):
            chance = random.Random(seed)
            shape = Shape(*(chance.randrange(3, 9), chance.randrange(15, 41), 2, 3), models=1, encrypted=0.0, seed=seed)
            cluster = make(shape)
            least, proved = least_imbalance(cluster, most, 20.0)
            ours = plan(cluster, Settings(imbalance=1.0, cost_weight=0.0, max_migrations=most)).imbalance_after
            if not proved:
                unproved += 1
            else:
                over.append(ours / least - 1 if least > 1e-9 else float(ours > 1e-9))
        median = statistics.median(over)
        good &= median <= OPTIMUM_WITHIN
        print(
            f"at most {most} moves, up to 8 hosts and 40 VMs: over the optimum by {median:.2%} in the median, "
            f"{max(over):.2%} at worst, exactly it on {sum(one < 1e-9 for one in over)} of {len(over)} clusters "
            f"(median at most {OPTIMUM_WITHIN:.0%}: {_verdict(median <= OPTIMUM_WITHIN)}); "
            f"{unproved} more unproved within 20 s",
            flush=True,
        )
    return good


def weight() -> bool:
    """What drs.cost.weight buys: the default is chosen by these figures."""
    clusters = [make(Shape(20, 300, groups=10, seed=seed)) for seed in range(10)]
    print(
        "| drs.cost.weight | moves | GiB sent | imbalance before -> after | (means of 10 clusters of 20 hosts, 300 VMs)"
    )
    for value in (0.05, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0):
        found = [plan(one, Settings(imbalance=1.0, cost_weight=value, max_migrations=300)) for one in clusters]
        moves = statistics.mean(len(one.moves) for one in found)
        sent = statistics.mean(sum(move.cost_bytes for move in one.moves) for one in found) / GIB
        before = statistics.mean(one.imbalance_before for one in found)
        after = statistics.mean(one.imbalance_after for one in found)
        print(f"| {value:g} | {moves:.0f} | {sent:.0f} | {before:.1%} -> {after:.2%} |", flush=True)
    return True


PARTS: dict[str, Callable[[], bool]] = {"speed": speed, "greedy": greedy, "optimum": optimum, "weight": weight}


def main(*parts: str) -> bool:
    """Runs the parts named, or all; returns whether every limit was kept."""
    if parts and parts[0].startswith("speed-"):
        _one_speed(int(parts[0].removeprefix("speed-")))
    results = [PARTS[part]() for part in parts or PARTS]
    return all(results)


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
