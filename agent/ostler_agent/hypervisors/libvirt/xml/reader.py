"""Reads XML of another host under limits: nothing of it is expanded or fetched."""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ostler_common.errors import FailedPreconditionError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ELEMENTS = 10_000
MAX_ATTRIBUTES = 64
_REASON = "UNSAFE_DEFINITION"


def read(text: str) -> Element:
    """The root element; one of a namespace is called "{namespace}name".

    Raises FailedPreconditionError: DEFINITION_TOO_LARGE (bytes, depth, elements or attributes), UNSAFE_DEFINITION (not
    well-formed, a document type and so any entity, or a processing instruction).
    """
    data = text.encode(errors="replace")
    if len(data) > MAX_BYTES:
        raise _too_large(f"{MAX_BYTES >> 10} KiB")
    return _Reader().read(data)


class _Reader:
    """Feeds expat, and refuses at the first sight of it whatever has no place in a definition."""

    def __init__(self) -> None:
        self._tree = TreeBuilder()
        self._depth = self._elements = 0
        parser = expat.ParserCreate("utf-8", "}")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._tree.data
        parser.StartDoctypeDeclHandler = lambda *_: self._refuse("a document type")
        parser.ProcessingInstructionHandler = lambda *_: self._refuse("a processing instruction")
        self._parser = parser

    def read(self, data: bytes) -> Element:
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            said = expat.ErrorString(error.code)
            raise FailedPreconditionError(f"the definition is not well-formed XML: {said}", _REASON) from None
        return self._tree.close()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        for count, maximum, what in (
            (self._depth, MAX_DEPTH, "levels of elements"),
            (self._elements, MAX_ELEMENTS, "elements"),
            (len(attributes), MAX_ATTRIBUTES, "attributes in one element"),
        ):
            if count > maximum:
                raise _too_large(f"{maximum} {what}")
        self._tree.start(f"{{{name}" if "}" in name else name, attributes)

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._tree.end(f"{{{name}" if "}" in name else name)

    def _refuse(self, what: str) -> None:
        raise FailedPreconditionError(f"the definition has {what}, which is not allowed", _REASON)


def _too_large(limit: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"the definition has more than {limit}", "DEFINITION_TOO_LARGE")
