"""Algorithms from elsewhere: the example of docs/drs.md, run as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control.drs import Host, Settings, Snapshot, Vm, algorithms, plan
from ostler_control.drs.algorithms import plugins
from ostler_control.drs.imbalance import Bools, Floats, Gauge

GIB = 1 << 30
DOCS = Path(__file__).parents[4] / "docs" / "drs.md"


class Dist:
    name = "weighted-drs"


class Point:
    """An entry point that gives the example, or what a test wants."""

    dist = Dist()

    def __init__(self, name: str = "weighted", found: object = None) -> None:
        self.name, self.found = name, found

    def load(self) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        if self.found is not None:
            return self.found
        (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
        assert len(code.splitlines()) <= 30
        names: dict[str, type[algorithms.Algorithm]] = {}
        exec(code, names)
        return names["Weighted"]


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    def put(*points: Point) -> None:
        monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == algorithms.GROUP else [])
        plugins._points.cache_clear()

    yield put
    plugins._points.cache_clear()


def test_example_of_the_docs_is_an_algorithm(install: Install) -> None:
    install(Point())
    hosts = tuple(Host(f"h{i}", f"h{i}", 1000, 100 * GIB) for i in (1, 2))
    # Memory is even; CPU is not, and counts for a quarter.
    vms = (
        Vm("a", "a", "h1", 200, GIB),
        Vm("b", "b", "h1", 300, 19 * GIB),
        Vm("c", "c", "h2", 0, 20 * GIB),
    )
    found = plan(Snapshot(hosts, vms), Settings(algorithm="weighted", imbalance=0.9))
    assert found.algorithm == "weighted"
    assert found.imbalance_after < found.imbalance_before
    assert plan(Snapshot(hosts, vms), Settings(imbalance=0.9)).moves == ()


def test_unknown_algorithm_is_refused_with_those_there_are() -> None:
    with pytest.raises(FailedPreconditionError, match="balanced, condensed") as error:
        plan(Snapshot((), ()), Settings(algorithm="magic"))
    assert error.value.reason == "UNKNOWN_ALGORITHM"


class Good(algorithms.Algorithm):
    name = "good"

    def needs_drs(self, imbalance: float, settings: Settings) -> bool:
        return imbalance > 0.01


class Undecided(algorithms.Algorithm):
    name = "undecided"


class Raises(Good):
    def score(self, gain: Floats, cost: Floats, settings: Settings) -> Floats:
        raise RuntimeError("out of ideas")


class NotANumber(Good):
    def score(self, gain: Floats, cost: Floats, settings: Settings) -> Floats:
        return gain * float("nan")


class WrongWay(Good):
    def score(self, gain: Floats, cost: Floats, settings: Settings) -> Floats:
        return -gain


class LikesCost(Good):
    def score(self, gain: Floats, cost: Floats, settings: Settings) -> Floats:
        return gain + cost


class WrongGain(Good):
    def gain(self, before: float, after: Floats) -> Floats:
        return after - before


class OneNumber(Good):
    def gauges(self, cpu: Floats, memory: Floats, settings: Settings) -> list[Gauge]:
        return [Gauge(np.zeros(1), np.zeros(1), np.ones(1))]


class NoGauge(Good):
    def gauges(self, cpu: Floats, memory: Floats, settings: Settings) -> list[Gauge]:
        return []


class Talks(Good):
    def needs_drs(self, imbalance: float, settings: Settings) -> bool:
        return "yes"  # type: ignore[return-value]


class SkipsByNumber(Good):
    def skipped(self, full: Floats, settings: Settings) -> Bools:
        return full  # type: ignore[return-value]


def uneven() -> Snapshot:
    hosts = tuple(Host(f"h{i}", f"h{i}", 1000, 100 * GIB) for i in (1, 2, 3))
    return Snapshot(hosts, tuple(Vm(f"v{i}", f"v{i}", "h1", 10 * i, 10 * GIB) for i in range(1, 7)))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (ImportError("no module named cleverness"), "cannot be imported: ImportError: no module named cleverness"),
        ("text", "is no class derived from"),
        (Point, "is no class derived from"),
        (Undecided, "has no needs_drs"),
        (Raises, "score fails: RuntimeError: out of ideas"),
        (NotANumber, "score"),
        (WrongWay, "score must rise with gain"),
        (LikesCost, "score must not rise with cost"),
        (WrongGain, "gain prefers the wrong way"),
        (OneNumber, "gauges: base of gauge 0 has shape (1,); it must be (3,)"),
        (NoGauge, "returns 0 gauges"),
        (Talks, "needs_drs returns 'yes'"),
        (SkipsByNumber, "skipped returns float64"),
    ],
)
def test_a_faulty_plugin_is_one_error_that_names_its_package(install: Install, found: object, told: str) -> None:
    install(Point("clever", found))
    with pytest.raises(FailedPreconditionError) as error:
        plan(uneven(), Settings(algorithm="clever", imbalance=1.0))
    assert error.value.reason == "ALGORITHM_UNUSABLE"
    assert 'DRS algorithm "clever" of package weighted-drs' in error.value.message
    assert told in error.value.message
    assert plan(uneven(), Settings(imbalance=1.0)).moves  # the others still work
    (row,) = (row for row in plugins.installed() if row.name == "clever")
    assert row.package == "weighted-drs"
    assert 'DRS algorithm "clever"' in row.error


@pytest.mark.parametrize("points", [[Point("balanced", Good)], [Point("clever", Good), Point("clever", Good)]])
def test_a_name_that_two_packages_want_is_refused(install: Install, points: list[Point]) -> None:
    install(*points)
    with pytest.raises(FailedPreconditionError, match="rename one or uninstall it"):
        plan(uneven(), Settings(algorithm=points[0].name))


class LowerThePeak(Good):
    def penalty(self, values: Floats, settings: Settings) -> Floats:
        return values**8


def test_an_algorithm_may_lower_the_peak(install: Install) -> None:
    install(Point("peak", LowerThePeak))
    hosts = tuple(Host(f"h{i}", f"h{i}", 1000, 100 * GIB) for i in (1, 2, 3))
    vms = tuple(Vm(f"v{i}", f"v{i}", "h1", 1, 30 * GIB) for i in range(3))
    found = plan(Snapshot(hosts, vms), Settings(algorithm="peak", cost_weight=0.0))
    assert max(load.memory_after for load in found.loads) == pytest.approx(0.3 if len(found.moves) == 2 else 0.6)
    assert found.imbalance_before == pytest.approx(0.9**8 / 3)
    assert found.imbalance_after < 0.01 * 1.5
    assert all(row.error == "" for row in plugins.installed())
