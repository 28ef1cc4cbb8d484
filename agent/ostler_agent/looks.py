"""Counts the agent's looks at VMs, so that whoever hears of several knows which one was later.

A clock may jump, and what was seen earlier may arrive later, on another way.
"""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """A moment. life: of the agent; number: grows from each moment of that life to the next."""

    life: int
    number: int


class Looks:
    """The moments of one life of an agent. From any thread."""

    def __init__(self) -> None:
        # Never 0, which on the wire is the same as nothing.
        self._life = secrets.randbits(61) + 1
        self._numbers = itertools.count(1)

    def next(self) -> Look:
        """A moment later than all before. What is reported was read before its moment, what is answered after it."""
        return Look(self._life, next(self._numbers))


LOOKS = Looks()
