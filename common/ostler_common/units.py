"""Sizes and durations as people write them."""

from __future__ import annotations

import re

_BINARY = ("", "K", "M", "G", "T", "P", "E")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)(i?B?)", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_size(text: str) -> int:
    """Bytes of "10GiB", "512M", "1.5T", "4096". K, M, ... are powers of 1024, as in qemu-img; only KB, MB, ... are
    powers of 1000. Raises ValueError for anything else and for a fraction of a byte."""
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[3].lower() in ("i", "ib") and not match[2]):
        raise ValueError(f"{text!r} is not a size (examples: 10GiB, 512M, 4096)")
    base = 1000 if match[2] and match[3].lower() == "b" else 1024
    size = float(match[1]) * base ** _BINARY.index(match[2].upper()) if "." in match[1] else None
    if size is None:
        return int(match[1]) * int(base ** _BINARY.index(match[2].upper()))
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """ "1.5 GiB": at most one decimal, in the largest unit that leaves a number of at least 1."""
    value, unit = float(size_bytes), 0
    while round(abs(value), 1) >= 1024 and unit < len(_BINARY) - 1:
        value, unit = value / 1024, unit + 1
    number = f"{value:.1f}".removesuffix(".0")
    return f"{number} {_BINARY[unit]}{'iB' if unit else 'B'}"


def parse_duration(text: str) -> float:
    """Seconds of "90s", "1h30m", "7d", "250ms", or a plain number of seconds. Raises ValueError for anything else."""
    compact = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        return float(compact)
    parts = _DURATION.findall(compact)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != re.sub(r"\s+", "", compact):
        raise ValueError(f"{text!r} is not a duration (examples: 90s, 15m, 1h30m, 7d)")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """ "1h 30m", "45s", "0.3s": the two largest units."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    rest, parts = round(seconds), []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_SECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
