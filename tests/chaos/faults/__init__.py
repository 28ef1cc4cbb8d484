"""The faults of a hunt."""

from __future__ import annotations

from collections.abc import Callable

# By name: how often each comes, relative to the others, and what injects one and waits until it has ended.
Kinds = dict[str, tuple[int, Callable[[], None]]]
Wait = Callable[[float, float], None]
