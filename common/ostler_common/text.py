"""Texts of other origin made safe to store and to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every character escaped that could steer a terminal or hide what is there: control characters
    (C0 and C1), bidirectional overrides, invisible ones; line breaks stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def shortened(text: str, max_length: int) -> str:
    """At most max_length characters of the text, the last being "…" where some are missing."""
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
