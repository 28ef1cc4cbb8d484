"""The algorithms, found by name: entry points of the group `ostler.drs_algorithms`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from ostler_common.errors import FailedPreconditionError

from ostler_control.drs.algorithms.balanced import Balanced
from ostler_control.drs.algorithms.base import Algorithm
from ostler_control.drs.algorithms.condensed import Condensed

GROUP = "ostler.drs_algorithms"
_BUILT_IN: dict[str, type[Algorithm]] = {"balanced": Balanced, "condensed": Condensed}


@cache
def _installed() -> dict[str, type[Algorithm]]:
    plugins = {point.name: point for point in entry_points(group=GROUP) if point.name not in _BUILT_IN}
    return {**_BUILT_IN, **{name: point.load() for name, point in plugins.items()}}


def algorithm(name: str) -> Algorithm:
    """A new one of this name. Raises FailedPreconditionError (UNKNOWN_ALGORITHM)."""
    found = _BUILT_IN.get(name) or _installed().get(name)
    if found is None:
        known = ", ".join(sorted(_installed()))
        raise FailedPreconditionError(
            f'there is no DRS algorithm "{name}" (there are {known}; plug-ins are installed with the control plane)',
            "UNKNOWN_ALGORITHM",
            {"name": name},
        )
    return found()


__all__ = ["GROUP", "Algorithm", "Balanced", "Condensed", "algorithm"]
