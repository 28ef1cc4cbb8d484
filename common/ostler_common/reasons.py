"""Reason codes for people: what each means and what to do, from reasons.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Explanation:
    """means: what happened; remedy: what to do. Markdown, one paragraph each."""

    means: str
    remedy: str


@cache
def explanations() -> Mapping[str, Explanation]:
    """By reason code, in the order of the alphabet."""
    table = tomllib.loads(files("ostler_common").joinpath("reasons.toml").read_text(encoding="utf-8"))
    return {reason: Explanation(str(entry["means"]), str(entry["do"])) for reason, entry in table.items()}
