"""Algorithms from elsewhere: the example of docs/drs.md, run as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control.drs import Host, Settings, Snapshot, Vm, algorithms, plan

GIB = 1 << 30
DOCS = Path(__file__).parents[4] / "docs" / "drs.md"


class Point:
    """An entry point that gives the example."""

    name = "weighted"

    def load(self) -> type[algorithms.Algorithm]:
        (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
        assert len(code.splitlines()) <= 30
        names: dict[str, type[algorithms.Algorithm]] = {}
        exec(code, names)
        return names["Weighted"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(algorithms, "entry_points", lambda group: [Point()] if group == algorithms.GROUP else [])
    algorithms._installed.cache_clear()
    yield
    algorithms._installed.cache_clear()


@pytest.mark.usefixtures("installed")
def test_example_of_the_docs_is_an_algorithm() -> None:
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
