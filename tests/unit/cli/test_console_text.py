"""Console output without what could steer a terminal, in pieces of any size."""

from __future__ import annotations

import pytest
from ostler_control.cli.console_text import ConsoleText

PRINTED = "\x1b[1;32m[  OK  ]\x1b[0m\tStarted caf\u00e9\r\n\x1b]0;title\x1b\\\x1b(Blogin: \x1bc\x1b[?25lend\n".encode()
SHOWN = "[  OK  ]\tStarted caf\u00e9\nlogin: end\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_sequences_are_removed_however_they_are_cut(size: int) -> None:
    text = ConsoleText()
    assert "".join(text.clean(PRINTED[at : at + size]) for at in range(0, len(PRINTED), size)) == SHOWN


def test_control_characters_are_escaped() -> None:
    shown = ConsoleText().clean("a\x07b\x9bc\u202ed\0".encode())
    assert shown == "a\\x07b\\x9bc\\u202ed"


def test_a_sequence_without_end_does_not_hide_the_rest_for_ever() -> None:
    shown = ConsoleText().clean(b"\x1b]" + b"x" * 1000)
    assert shown == "\\x1b]" + "x" * 1000
