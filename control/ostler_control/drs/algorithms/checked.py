"""A plug-in's answers are checked before the planner uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from ostler_common.errors import FailedPreconditionError

from ostler_control.drs.algorithms.base import Algorithm
from ostler_control.drs.imbalance import Bools, Floats, Gauge
from ostler_control.drs.settings import Settings

_MAX_GAUGES = 16


def unusable(name: str, package: str, what: str) -> FailedPreconditionError:
    """The error that says what is wrong with a plug-in."""
    return FailedPreconditionError(
        f'DRS algorithm "{name}" of package {package}: {what}',
        "ALGORITHM_UNUSABLE",
        {"name": name, "package": package},
    )


class Checked(Algorithm):
    """A plug-in whose every answer has the right shape and is finite, or else one error names its package."""

    def __init__(self, name: str, package: str, inner: Algorithm) -> None:
        self.name, self._package, self._inner = name, package, inner
        self.lowers, self.empties_hosts = bool(inner.lowers), bool(inner.empties_hosts)

    @property
    def skips_hosts(self) -> bool:
        return self._inner.skips_hosts

    def gauges(self, cpu: Floats, memory: Floats, settings: Settings) -> list[Gauge]:
        with self._calling("gauges"):
            found = list(self._inner.gauges(cpu, memory, settings))
        if not 1 <= len(found) <= _MAX_GAUGES:
            raise self._bad(f"gauges returns {len(found)} gauges; it must be 1 to {_MAX_GAUGES}")
        for number, gauge in enumerate(found):
            if not isinstance(gauge, Gauge):
                raise self._bad(f"gauges returns {type(gauge).__name__} at position {number}; it must be a Gauge")
            for part in ("base", "per_cpu", "per_memory"):
                self._array(f"gauges: {part} of gauge {number}", getattr(gauge, part), cpu.shape)
            slopes = np.concatenate([gauge.per_cpu, gauge.per_memory])
            if (slopes > 0).any() and (slopes < 0).any():
                raise self._bad(f"gauges: slopes of gauge {number} have different signs")
        return found

    def penalty(self, values: Floats, settings: Settings) -> Floats | None:
        with self._calling("penalty"):
            found = self._inner.penalty(values, settings)
        return None if found is None else self._array("penalty", found, values.shape)

    def combine(self, imbalances: list[Floats]) -> Floats:
        with self._calling("combine"):
            found = self._inner.combine(imbalances)
        return self._array("combine", found, np.shape(imbalances[0]), finite=False)

    def skipped(self, full: Floats, settings: Settings) -> Bools:
        with self._calling("skipped"):
            found = np.asarray(self._inner.skipped(full, settings))
        if found.shape != full.shape or found.dtype != np.bool_:
            raise self._bad(f"skipped returns {_told(found)}; it must be truth values of shape {full.shape}")
        return found

    def needs_drs(self, imbalance: float, settings: Settings) -> bool:
        with self._calling("needs_drs"):
            found = self._inner.needs_drs(imbalance, settings)
        if not isinstance(found, (bool, np.bool_)):
            raise self._bad(f"needs_drs returns {found!r}; it must be True or False")
        return bool(found)

    def gain(self, before: float, after: Floats) -> Floats:
        with self._calling("gain"):
            found = self._inner.gain(before, after)
            step = np.array([1.0, 2.0])
            ends = self._inner.gain(1.5, step)
        if (ends[1] > ends[0]) if self.lowers else (ends[1] < ends[0]):
            way = "lower" if self.lowers else "higher"
            raise self._bad(f"gain prefers the wrong way: a {way} imbalance must gain more (lowers is {self.lowers})")
        return self._array("gain", found, np.shape(after), finite=False)

    def score(self, gain: Floats, cost: Floats, settings: Settings) -> Floats:
        with self._calling("score"):
            found = self._inner.score(gain, cost, settings)
            by_gain = np.asarray(self._inner.score(np.array([0.1, 0.2]), np.array([0.01, 0.01]), settings))
            by_cost = np.asarray(self._inner.score(np.array([0.1, 0.1]), np.array([0.01, 0.02]), settings))
        if by_gain.shape != (2,) or not by_gain[1] > by_gain[0]:
            raise self._bad("score must rise with gain")
        if by_cost.shape != (2,) or not by_cost[1] <= by_cost[0]:
            raise self._bad("score must not rise with cost")
        return self._array("score", found, np.broadcast_shapes(np.shape(gain), np.shape(cost)), finite=False)

    @contextmanager
    def _calling(self, method: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a plug-in raises
            raise self._bad(f"{method} fails: {type(error).__name__}: {error}") from error

    def _array(self, what: str, found: object, shape: tuple[int, ...], *, finite: bool = True) -> Floats:
        try:
            array = np.asarray(found, dtype=float)
        except (TypeError, ValueError):
            raise self._bad(f"{what} is {found!r}; it must be numbers") from None
        if array.shape != shape:
            raise self._bad(f"{what} has shape {array.shape}; it must be {shape}")
        if not np.isfinite(array).all() if finite else np.isnan(array).any():
            raise self._bad(f"{what} holds a number that is not finite")
        return array

    def _bad(self, what: str) -> FailedPreconditionError:
        return unusable(self.name, self._package, what)


def _told(found: Floats | Bools) -> str:
    return f"{found.dtype} of shape {found.shape}"
