"""The algorithms by name: the built-in ones, and plug-ins from entry points of the group `ostler.drs_algorithms`."""

from __future__ import annotations

from ostler_control.drs.algorithms.balanced import Balanced
from ostler_control.drs.algorithms.base import Algorithm
from ostler_control.drs.algorithms.condensed import Condensed
from ostler_control.drs.algorithms.plugins import GROUP, Installed, algorithm, installed

__all__ = ["GROUP", "Algorithm", "Balanced", "Condensed", "Installed", "algorithm", "installed"]
