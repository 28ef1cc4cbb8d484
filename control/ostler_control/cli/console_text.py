"""Makes what a guest printed safe to show: it must not steer the terminal of whoever reads it."""

from __future__ import annotations

import codecs
import re

from ostler_common.text import printable

# ECMA-48: control sequences, strings (titles, links), and two-character escapes; and one that has only begun.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ`-~\\])")
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")
_MAX_BEGUN = 256


class ConsoleText:
    """Cleans a console's output, piece by piece: no colors, no control characters but line breaks and tabs."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""

    def clean(self, data: bytes) -> str:
        """The text of the next piece. A sequence that its end cuts off is kept for the piece after it."""
        text = _SEQUENCE.sub("", self._begun + self._decoder.decode(data))
        self._begun = ""
        cut = _BEGUN.search(text)
        if cut and len(cut[0]) <= _MAX_BEGUN:
            text, self._begun = text[: cut.start()], cut[0]
        return "\t".join(map(printable, text.replace("\r", "").replace("\0", "").split("\t")))
