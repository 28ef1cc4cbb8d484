"""What a killed agent has left running."""

from __future__ import annotations

from pathlib import Path


def children_of(name: str, argument: str) -> list[Path]:
    return [
        process
        for process in Path("/proc").glob("[0-9]*")
        if (words := _read(process / "cmdline")) and name.encode() in words and argument.encode() in words
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
