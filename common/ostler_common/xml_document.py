"""An XML document that a stranger may have written, as plain elements without namespaces.

No document type, so no entities; limits on depth, number of elements and text. Nothing is expanded or fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat


class XmlError(Exception):
    """Its text completes a sentence about the document: "it is empty"."""


class XmlTooLargeError(XmlError):
    """The document has more elements or levels than allowed."""


@dataclass(frozen=True)
class XmlLimits:
    """max_text: characters of an element's own text and of an attribute; the rest is dropped."""

    max_elements: int
    max_depth: int
    max_text: int = 4096


@dataclass
class Element:
    """name: without its prefix; namespace: "" for none."""

    name: str
    namespace: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def get(self, name: str) -> str:
        """An attribute, "" when it has none."""
        return self.attributes.get(name, "")

    def child(self, name: str) -> Element | None:
        """The first child of that name."""
        return next((child for child in self.children if child.name == name), None)

    def text_of(self, name: str) -> str:
        """A child's text, "" without one."""
        child = self.child(name)
        return child.text.strip() if child is not None else ""

    def walk(self) -> Iterator[Element]:
        """All inside it; the depth is limited, so this is, too."""
        for child in self.children:
            yield child
            yield from child.walk()


def parse(data: bytes, limits: XmlLimits) -> Element:
    """The root. The caller limits the size of `data`. Raises XmlError, XmlTooLargeError."""
    return _Reader(limits).read(data)


class _Reader:
    """Feeds expat, and refuses whatever such a document has no need of before it is expanded or grows."""

    def __init__(self, limits: XmlLimits) -> None:
        self._limits = limits
        self._open: list[Element] = []
        self._root: Element | None = None
        self._elements = 0
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = lambda *_: self._forbid("it has a document type")
        parser.EntityDeclHandler = lambda *_: self._forbid("it declares an entity")
        parser.ProcessingInstructionHandler = lambda *_: self._forbid("it has a processing instruction")
        self._parser = parser

    def read(self, data: bytes) -> Element:
        try:
            self._parser.Parse(data, True)
        except (expat.ExpatError, LookupError, ValueError):  # LookupError: an encoding that Python does not know
            raise XmlError("it is not well-formed XML") from None
        if self._root is None:
            raise XmlError("it is empty")
        return self._root

    def _forbid(self, what: str) -> NoReturn:
        raise XmlError(what)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > self._limits.max_elements or len(self._open) >= self._limits.max_depth:
            raise XmlTooLargeError("it has too many elements")
        namespace, _, local = name.rpartition(" ")
        kept = {key.rpartition(" ")[2]: value[: self._limits.max_text] for key, value in attributes.items()}
        element = Element(local, namespace, kept)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self._root = element
        self._open.append(element)

    def _end(self, _: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        element = self._open[-1]
        room = self._limits.max_text - len(element.text)
        if room > 0:
            element.text += text[:room]
