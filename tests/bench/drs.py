"""How fast plans of DRS are, and how good: `python -m tests.bench.drs [PART ...]`; `PARTS` has their names.

Every figure is given for both generators of clusters: `clusters.py` (VMs of many sizes) and `fleets.py` (few flavors,
85 % full). Times are CPU seconds of one core, so that a busy machine does not spoil them. The optimum needs
`ostler[bench]`.
"""

from __future__ import annotations

import math
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

from ostler_control.drs import Group, GroupKind, Host, Mode, Plan, Settings, Snapshot, Vm, plan

from tests.bench.clusters import Shape, make
from tests.bench.drs_hbal import available, hbal
from tests.bench.drs_reference import Reference
from tests.bench.drs_small import cases
from tests.bench.fleets import Broken, Fleet, make_broken, make_fleet

GIB = 1 << 30
# No imbalance is allowed: plans end for no other reason than that nothing more can be done.
STRICT = Settings(imbalance=1.0)
LEAST_IMBALANCE = Settings(imbalance=1.0, cost_weight=0.0)
# Cluster, settings, CPU seconds allowed.
SPEED: tuple[tuple[Shape | Fleet, Settings, float], ...] = (
    (Shape(15, 150), Settings(), 0.020),
    (Shape(15, 150), STRICT, 2.0),
    (Shape(32, 320), Settings(imbalance=1.0, metric="both", max_migrations=500), 2.0),
    (Shape(1_000, 20_000, groups=200), Settings(), 1.0),
    (Shape(1_000, 20_000, groups=200), STRICT, 1.0),
    (Fleet(1_000, full=0.66), STRICT, 1.0),
    (Fleet(3_000, full=0.66), Settings(imbalance=1.0, max_migrations=500), 10.0),
    (Shape(10_000, 200_000, groups=200), STRICT, 5.0),
    (Fleet(10_000, full=0.66), STRICT, 5.0),
    (Fleet(10_000, full=0.85), STRICT, 5.0),
    (Fleet(10_000, full=0.66), Settings(imbalance=1.0, max_migrations=500), 20.0),
    (Fleet(10_000, full=0.85), Settings(imbalance=1.0, max_migrations=500), 20.0),
)
MEMORY_LIMIT_MIB = 2048
MAX_EXPONENT = 1.3
_TOOK = re.compile(r": +([\d.]+) s for")
TIMES_FASTER = 100
SEEDS = 50
OPTIMUM_WITHIN = 0.10
SMALL = 12
BROKEN = 120
_SOLVE_S = 5.0


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
    shape, settings, limit_s = SPEED[number]
    snapshot = make(shape) if isinstance(shape, Shape) else make_fleet(shape)
    took_s, found = _timed(snapshot, settings, 3 if len(snapshot.vms) < 1_000 else 1)
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    name = "clusters" if isinstance(shape, Shape) else f"fleets, {shape.full:.0%} full"
    goal = "default" if settings.imbalance != 1.0 else "drs.imbalance 1"
    good = took_s <= limit_s and mib <= MEMORY_LIMIT_MIB
    print(
        f"{len(snapshot.hosts):>6,} hosts {len(snapshot.vms):>8,} VMs ({name}; {goal}, metric {settings.metric}): "
        f"{took_s:8.3f} s for {len(found.moves):>3} moves (at most {limit_s:g} s: {_verdict(good)}), {mib:,} MiB",
        flush=True,
    )
    sys.exit(0 if good else 1)


def speed() -> bool:
    """Each size in its own process, so that its memory is its own; then how the time grows with the size."""
    good = True
    took_s: dict[tuple[type[Shape | Fleet], float], dict[int, float]] = {}
    for number, (shape, settings, _) in enumerate(SPEED):
        command = [sys.executable, "-m", "tests.bench.drs", f"speed-{number}"]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        print(done.stdout, end="", flush=True)
        good &= done.returncode == 0
        if settings is STRICT and (found := _TOOK.search(done.stdout)):
            took_s.setdefault((type(shape), getattr(shape, "full", 0.0)), {})[shape.hosts] = float(found.group(1))
    for (kind, _), times in took_s.items():
        if 1_000 in times and 10_000 in times:
            exponent = math.log10(times[10_000] / times[1_000])
            good &= exponent <= MAX_EXPONENT
            name = "clusters" if kind is Shape else "fleets"
            print(
                f"{name}: from 1,000 to 10,000 hosts the time grows as the size to the power of {exponent:.2f} "
                f"(at most {MAX_EXPONENT}: {_verdict(exponent <= MAX_EXPONENT)})",
                flush=True,
            )
    return good


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


def _total(found: Plan, weight: float) -> float:
    """What a plan leaves and costs together: what drs.cost.weight makes it lower."""
    return found.imbalance_after + weight * sum(move.cost for move in found.moves)


def _ratio(ours: float, least: float) -> float:
    return ours / least if least > 1e-9 else (1.0 if ours < 1e-9 else float("inf"))


def _spread(numbers: list[float]) -> str:
    ordered = sorted(numbers)
    p95 = ordered[min(int(len(ordered) * 0.95), len(ordered) - 1)]
    exact = sum(one < 1 + 1e-6 for one in ordered)
    return f"median {statistics.median(ordered):.3f}, p95 {p95:.3f}, worst {ordered[-1]:.3f}, best possible {exact}"


def optimum() -> bool:
    """Against the best possible plans of as many moves, the plain way, and hbal."""
    from tests.bench.drs_optimum import least_imbalance, least_total

    default = Settings().cost_weight
    ratios: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    unproved, worse = 0, 0
    for case in cases(SMALL):
        least, proved = least_imbalance(case.snapshot, case.most, _SOLVE_S)
        free = plan(case.snapshot, Settings(imbalance=1.0, cost_weight=0.0, max_migrations=case.most))
        plain = Reference(case.snapshot, LEAST_IMBALANCE).run(case.most)[-1]
        worse += free.imbalance_after > plain + 1e-9
        found = ratios[case.generator]
        for value in (default, 1.0):
            ours = plan(case.snapshot, Settings(imbalance=1.0, cost_weight=value, max_migrations=case.most))
            worse += _total(ours, value) > _total(free, value) + 1e-9
            best = least_total(case.snapshot, case.most, value, _SOLVE_S / 3, max(least, 2e-3))
            total = min(best.imbalance + value * best.cost, _total(ours, value))
            found[f"imbalance + {value:g} x cost, weight {value:g}"].append(_ratio(_total(ours, value), total))
            if proved:
                found[f"imbalance, weight {value:g}"].append(_ratio(ours.imbalance_after, least))
        if not proved:
            unproved += 1
            continue
        found["imbalance, weight 0"].append(_ratio(free.imbalance_after, least))
        found["imbalance, the plain way"].append(_ratio(plain, least))
        if available() and not case.snapshot.groups:
            found["imbalance, hbal"].append(_ratio(hbal(case.snapshot, case.most), least))
    good = not worse
    for generator, rows in ratios.items():
        for name, numbers in sorted(rows.items()):
            print(f"{generator}: {name}: {len(numbers)} cases against the optimum: {_spread(numbers)}", flush=True)
        p95 = sorted(rows["imbalance, weight 0"])[int(len(rows["imbalance, weight 0"]) * 0.95) - 1]
        good &= p95 <= 1 + OPTIMUM_WITHIN
    print(
        f"{unproved} cases unproved within {_SOLVE_S:g} s; worse than the plain way, or by its own measure than a "
        f"plan without cost: {worse} ({_verdict(good)})",
        flush=True,
    )
    return good


def repair() -> bool:
    """Small broken clusters that can be repaired, and one group of thousands."""
    whole, total, moves, times = 0, 0, 0, []
    for seed in range(BROKEN):
        chance = random.Random(seed)
        shape = Broken(
            chance.randrange(4, 9),
            chance.choice((0.6, 0.75, 0.85)),
            chance.randrange(2, 6),
            chance.randrange(4),
            chance.choice((2, 3, 4)),
            chance.choice((0.3, 0.6, 1.0)),
            seed,
        )
        begin = time.process_time()
        found = plan(make_broken(shape), Settings(), Mode.REPAIR)
        times.append(time.process_time() - begin)
        if found.broken_before:
            total += 1
            whole += not found.broken_after
            moves += len(found.moves)
    print(f"{whole} of {total} broken small clusters repaired whole, {moves} moves, at most {max(times):.2f} s each")
    hosts = tuple(Host(f"h{number}", f"h{number}", 10**6, 512 * GIB) for number in range(3_000))
    chance = random.Random(1)
    vms = tuple(Vm(f"v{n}", f"v{n}", f"h{chance.randrange(3_000)}", 100, 8 * GIB, groups=("g",)) for n in range(3_000))
    big = Snapshot(hosts, vms, (Group("g", "g", GroupKind.ANTI_AFFINITY),))
    begin = time.process_time()
    found = plan(big, Settings(), Mode.REPAIR)
    took_s = time.process_time() - begin
    good = whole == total and took_s <= 2.0
    print(f"3,000 VMs of one group on 3,000 hosts: {took_s:.2f} s for {len(found.moves)} moves ({_verdict(good)})")
    return good


def _to_condense(seed: int) -> Snapshot:
    """A fleet with hosts that hold others as well, or a cluster of many sizes on equal hosts."""
    chance = random.Random(seed)
    if seed % 3 < 2:
        full, skew = chance.choice((0.3, 0.45, 0.6, 0.7)), chance.choice((0.4, 0.8))
        return make_fleet(Fleet(chance.randrange(5, 13), full, skew, sizes=4, small=True, others=0.2, seed=seed))
    hosts = chance.randrange(4, 8)
    return make(Shape(hosts, hosts * chance.randrange(6, 12), models=1, encrypted=0.0, seed=seed))


def condensed() -> bool:
    """Hosts emptied and moves made, against the optimum."""
    from tests.bench.drs_optimum import fewest_hosts

    good = True
    for name, seeds in (("fleets", [n for n in range(45) if n % 3 < 2]), ("clusters", range(2, 60, 3))):
        ours, theirs, unproved = [0, 0], [0, 0], 0
        for seed in seeds:
            cluster = _to_condense(seed)
            best = fewest_hosts(cluster, 20.0)
            if best is None:
                unproved += 1
                continue
            found = plan(cluster, Settings(algorithm="condensed", imbalance=1.0, cost_weight=0.0, max_migrations=1_000))
            others = {host.id for host in cluster.hosts if host.other_memory_bytes}
            empty = sum(load.vms_after == 0 for load in found.loads if load.id not in others)
            ours = [ours[0] + empty, ours[1] + len(found.moves)]
            theirs = [theirs[0] + best[0], theirs[1] + best[1]]
        kept = ours[0] == theirs[0] and ours[1] <= 1.05 * theirs[1]
        good &= kept
        print(
            f"condensed ({name}): {ours[0]} hosts free with {ours[1]} moves; the optimum {theirs[0]} with {theirs[1]} "
            f"({_verdict(kept)}); {unproved} unproved",
            flush=True,
        )
    return good


def weight() -> bool:
    """What drs.cost.weight buys: the default is chosen by these figures."""
    clusters = [make(Shape(20, 300, groups=10, seed=seed)) for seed in range(5)]
    clusters += [make_fleet(Fleet(12, 0.6, skew=0.8, dirtying=True, small=True, seed=seed)) for seed in range(5)]
    print(
        "| drs.cost.weight | moves | GiB sent | imbalance before -> after | (means of 10 clusters of both generators)"
    )
    for value in (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0):
        found = [plan(one, Settings(imbalance=1.0, cost_weight=value, max_migrations=300)) for one in clusters]
        moves = statistics.mean(len(one.moves) for one in found)
        sent = statistics.mean(sum(move.cost_bytes for move in one.moves) for one in found) / GIB
        before = statistics.mean(one.imbalance_before for one in found)
        after = statistics.mean(one.imbalance_after for one in found)
        print(f"| {value:g} | {moves:.0f} | {sent:.0f} | {before:.1%} -> {after:.2%} |", flush=True)
    return True


PARTS: dict[str, Callable[[], bool]] = {
    "speed": speed,
    "greedy": greedy,
    "optimum": optimum,
    "repair": repair,
    "condensed": condensed,
    "weight": weight,
}


def main(*parts: str) -> bool:
    """Runs the parts named, or all; returns whether every limit was kept."""
    if parts and parts[0].startswith("speed-"):
        _one_speed(int(parts[0].removeprefix("speed-")))
    results = [PARTS[part]() for part in parts or PARTS]
    return all(results)


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
