"""Finding algorithms by name. What is wrong with a plug-in is one error that names its package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import numpy as np
from ostler_common.errors import FailedPreconditionError

from ostler_control.drs.algorithms.balanced import Balanced
from ostler_control.drs.algorithms.base import Algorithm
from ostler_control.drs.algorithms.checked import Checked, unusable
from ostler_control.drs.algorithms.condensed import Condensed
from ostler_control.drs.settings import Settings

GROUP = "ostler.drs_algorithms"
_BUILT_IN: dict[str, type[Algorithm]] = {"balanced": Balanced, "condensed": Condensed}


@dataclass(frozen=True)
class Installed:
    """An algorithm that is there. package: the distribution it comes from, "" when built in; error: why it cannot be
    used, "" when it can."""

    name: str
    package: str
    error: str


@cache
def _points() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _package(point: EntryPoint) -> str:
    dist = getattr(point, "dist", None)
    return str(dist.name) if dist is not None else str(getattr(point, "value", "")).partition(":")[0]


def algorithm(name: str) -> Algorithm:
    """A new one of this name. Raises FailedPreconditionError (UNKNOWN_ALGORITHM, ALGORITHM_UNUSABLE)."""
    points = _points().get(name, [])
    built_in = _BUILT_IN.get(name)
    if points and (built_in or len(points) > 1):
        packages = ", ".join(sorted(map(_package, points)))
        problem = "which is built in" if built_in else "which is one too many"
        raise unusable(name, packages, f'names an algorithm "{name}", {problem}: rename one or uninstall it')
    if built_in:
        return built_in()
    if not points:
        known = ", ".join(sorted({*_BUILT_IN, *_points()}))
        raise FailedPreconditionError(
            f'there is no DRS algorithm "{name}" (there are {known}; plug-ins are installed with the control plane)',
            "UNKNOWN_ALGORITHM",
            {"name": name},
        )
    return _load(name, points[0])


def _load(name: str, point: EntryPoint) -> Algorithm:
    package = _package(point)
    try:
        found = point.load()
    except Exception as error:  # whatever a package does when it is imported
        raise unusable(name, package, f"cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise unusable(
            name, package, f"{found!r} is no class derived from ostler_control.drs.algorithms.base.Algorithm"
        )
    if found.needs_drs is Algorithm.needs_drs:
        raise unusable(name, package, f"class {found.__name__} has no needs_drs")
    try:
        inner = found()
    except Exception as error:
        raise unusable(name, package, f"{found.__name__}() fails: {type(error).__name__}: {error}") from error
    return Checked(name, package, inner)


def try_out(found: Algorithm, settings: Settings) -> None:
    """Asks an algorithm all that the planner asks, for two made-up hosts. Raises FailedPreconditionError
    (ALGORITHM_UNUSABLE)."""
    cpu, memory = np.array([10_000.0, 20_000.0]), np.array([2.0**36, 2.0**37])
    gauges = found.gauges(cpu, memory, settings)
    values = np.array([gauge.values(cpu / 2, memory / 4) for gauge in gauges])
    found.penalty(values, settings)
    found.skipped(np.full(values.shape, 0.5), settings)
    imbalance = float(found.combine([np.array(0.5) for _ in gauges]))
    found.needs_drs(imbalance, settings)
    after = np.array([0.2, 0.3])
    found.score(found.gain(imbalance, after), np.array([0.01, 0.02]), settings)


def installed() -> list[Installed]:
    """Every algorithm there is, also those that cannot be used."""
    found = []
    for name in sorted({*_BUILT_IN, *_points()}):
        error = ""
        try:
            try_out(algorithm(name), Settings())
        except FailedPreconditionError as problem:
            error = problem.message
        packages = ", ".join(sorted(map(_package, _points().get(name, []))))
        found.append(Installed(name, packages, error))
    return found
