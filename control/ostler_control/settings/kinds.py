"""The types of settings: how a value is written, and what it may be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A type of value. allowed: its range or form in words; unit: "" for none.

    parse: from text; raises ValueError, whose text says what is wrong.
    """

    type: str
    parse: Callable[[str], T]
    allowed: str = ""
    unit: str = ""

    @property
    def summary(self) -> str:
        """All of that for people: "integer, 1 to 300, seconds"."""
        return ", ".join(filter(None, (self.type, self.allowed, self.unit)))


def integer(low: int, high: int, unit: str) -> Kind[int]:
    """A whole number from low to high."""

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise ValueError("is not a whole number")
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"must be {low} to {high}")
        return value

    return Kind("integer", parse, f"{low} to {high}", unit)


def number(low: float, high: float, unit: str = "") -> Kind[float]:
    """A number from low to high, with a decimal point or without."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", text, re.ASCII):
            raise ValueError("is not a number")
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"must be {low:g} to {high:g}")
        return value

    return Kind("number", parse, f"{low:g} to {high:g}", unit)


def choice(*words: str) -> Kind[str]:
    """One of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return text

    return Kind("choice", parse, " or ".join(words))


def text(allowed: str, parse: Callable[[str], str] = str) -> Kind[str]:
    """Text of a form that `parse` checks."""
    return Kind("text", parse, allowed)


def word_list(allowed: str, check: Callable[[Sequence[str]], object] = tuple) -> Kind[tuple[str, ...]]:
    """Words separated by commas. check: raises ValueError for words that may not be."""

    def parse(written: str) -> tuple[str, ...]:
        words = tuple(filter(None, (word.strip() for word in written.split(","))))
        check(words)
        return words

    return Kind("list", parse, allowed)


def _truth(written: str) -> bool:
    if written not in ("true", "false"):
        raise ValueError("must be true or false")
    return written == "true"


BOOLEAN: Kind[bool] = Kind("boolean", _truth, "true or false")
