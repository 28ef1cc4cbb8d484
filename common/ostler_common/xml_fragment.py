"""XML that somebody else wrote, as plain values: nothing of it is expanded, fetched or passed on as text.

Callers work with the parsed nodes and write them anew. So what is checked is what is used, however it was spelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from ostler_common.errors import InvalidArgumentError

MAX_BYTES = 16 << 10
MAX_DEPTH = 12
MAX_ELEMENTS = 256
MAX_ATTRIBUTES = 32
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_SEPARATOR = " "  # between a namespace and a name, as expat reports them; no name has one
_ROOT = "fragment"


@dataclass(frozen=True)
class Node:
    """An element.

    name: "video", or "qemu:commandline" for one of QEMU's namespace, whatever prefix it was written with;
    text: all that stands directly in it, without space at the ends; line: where it begins, from 1.
    """

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    children: tuple[Node, ...] = ()
    line: int = 0

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
        """This element and all inside it in document order, each with its path from `path` on."""
        here = (*path, self.name)
        yield here, self
        for child in self.children:
            yield from child.walk(here)


def parse(text: str, max_bytes: int = MAX_BYTES) -> tuple[Node, ...]:
    """The elements of a fragment, which may have several at its top. Comments are dropped.

    Raises InvalidArgumentError: XML_TOO_LARGE (bytes, depth, elements or attributes), XML_SYNTAX (not well-formed),
    XML_FORBIDDEN (document types, entities, processing instructions, CDATA, namespaces but QEMU's).
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError("the XML is not text in Unicode", "XML_SYNTAX") from None
    if len(data) > max_bytes:
        raise InvalidArgumentError(f"the XML has {len(data)} bytes; at most {max_bytes} are allowed", "XML_TOO_LARGE")
    return _Reader().read(data)


@dataclass
class _Open:
    """An element whose end has not been read."""

    name: str
    attributes: dict[str, str]
    line: int
    texts: list[str] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def close(self) -> Node:
        return Node(self.name, self.attributes, "".join(self.texts).strip(), tuple(self.children), self.line)


class _Reader:
    """Feeds expat and refuses, at the first sight of it, whatever has no place in a fragment."""

    def __init__(self) -> None:
        self._open = [_Open(_ROOT, {}, 0)]
        self._elements = 0
        parser = expat.ParserCreate("utf-8", _SEPARATOR)
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartNamespaceDeclHandler = self._namespace
        parser.ProcessingInstructionHandler = lambda *_: self._forbid("a processing instruction")
        parser.StartCdataSectionHandler = lambda: self._forbid("a CDATA section")
        self._parser = parser

    def read(self, data: bytes) -> tuple[Node, ...]:
        """The elements."""
        try:
            # Inside a root of Ostler's a document type, and so any entity, is a syntax error; and so is a second root,
            # which would follow if the fragment closed the first.
            self._parser.Parse(f"<{_ROOT}>".encode(), False)
            self._parser.Parse(data, False)
            self._parser.Parse(f"</{_ROOT}>".encode(), True)
        except expat.ExpatError as error:
            what = expat.ErrorString(error.code)
            raise self._error(f"the XML is not well-formed: {what}", "XML_SYNTAX", error.lineno) from None
        root = self._open[0]
        if "".join(root.texts).strip():
            raise self._error("there is text outside of the elements", "XML_SYNTAX", 1)
        return tuple(root.children)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._elements == 0:
            self._elements = 1  # the root, which is Ostler's own
            return
        self._elements += 1
        self._limit(self._elements - 1, MAX_ELEMENTS, "elements")
        self._limit(len(self._open), MAX_DEPTH, "levels of elements")
        self._limit(len(attributes), MAX_ATTRIBUTES, "attributes in one element")
        for attribute in attributes:
            self._check_name(attribute)
        self._open.append(_Open(self._local(name), attributes, self._parser.CurrentLineNumber))

    def _end(self, _name: str) -> None:
        if len(self._open) > 1:
            node = self._open.pop().close()
            self._open[-1].children.append(node)

    def _text(self, text: str) -> None:
        self._open[-1].texts.append(text)

    def _namespace(self, _prefix: str | None, uri: str | None) -> None:
        if uri != QEMU_NAMESPACE:
            self._forbid("a namespace other than QEMU's")

    def _local(self, name: str) -> str:
        namespace, separator, local = name.rpartition(_SEPARATOR)
        self._check_name(local)
        if separator and namespace != QEMU_NAMESPACE:
            self._forbid("a namespace other than QEMU's")
        return f"qemu:{local}" if separator else local

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            shown = name.replace(_SEPARATOR, ":")[:80]
            raise self._error(f'"{shown}" is no name that a domain has', "XML_FORBIDDEN")

    def _limit(self, count: int, maximum: int, what: str) -> None:
        if count > maximum:
            raise self._error(f"the XML has more than {maximum} {what}", "XML_TOO_LARGE")

    def _forbid(self, what: str) -> None:
        raise self._error(f"the XML has {what}, which is not allowed here", "XML_FORBIDDEN")

    def _error(self, what: str, reason: str, line: int | None = None) -> InvalidArgumentError:
        line = line or self._parser.CurrentLineNumber
        return InvalidArgumentError(f"line {line}: {what}", reason, {"line": str(line)})
