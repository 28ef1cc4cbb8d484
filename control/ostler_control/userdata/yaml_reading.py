"""YAML read as a stream of events: in bounded time and depth, whatever anchors and merge keys the document has.

Nothing is built from the document, except the few texts of a cloud-config-archive.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from ostler_control.userdata.problems import line_of, problem

_MAX_DEPTH = 100
_Scalar = str | bytes
_BINARY_TAG = "tag:yaml.org,2002:binary"


@dataclass(frozen=True)
class Entry:
    """An entry of a cloud-config-archive: its fields, and the line where it begins."""

    fields: dict[str, _Scalar]
    line: int


def check_mapping(content: bytes, document: str) -> None:
    """Raises InvalidArgumentError USERDATA_INVALID_YAML unless content is one YAML mapping, or holds only comments."""
    events = _events(content, document)
    first = next(events, None)
    if first is not None and not isinstance(first, yaml.MappingStartEvent):
        raise _problem(document, "a cloud-config is a mapping of keys to values", first)
    for _ in events:
        pass


def read_archive(content: bytes, document: str) -> list[Entry]:
    """The entries of a cloud-config-archive: a list of texts, or of mappings with content, type, filename and so on.

    Raises InvalidArgumentError USERDATA_INVALID_YAML.
    """
    events = _events(content, document)
    first = next(events, None)
    if not isinstance(first, yaml.SequenceStartEvent):
        raise problem(
            document,
            "a cloud-config-archive is a list of documents",
            "USERDATA_INVALID_YAML",
            _line(first) if first else 0,
        )
    entries = []
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        if isinstance(event, yaml.ScalarEvent):
            entries.append(Entry({"content": _scalar(event, document)}, _line(event)))
        elif isinstance(event, yaml.MappingStartEvent):
            entries.append(Entry(_fields(events, document), _line(event)))
        else:
            raise _problem(document, "an entry of an archive is a text or a mapping of texts", event)
    for _ in events:
        pass
    return entries


def _fields(events: Iterator[yaml.Event], document: str) -> dict[str, _Scalar]:
    fields: dict[str, _Scalar] = {}
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            break
        value = next(events)
        if not isinstance(key, yaml.ScalarEvent) or not isinstance(value, yaml.ScalarEvent):
            raise _problem(document, "the fields of an archive's entry are plain texts", key)
        fields[key.value] = _scalar(value, document)
    return fields


def _scalar(event: yaml.ScalarEvent, document: str) -> _Scalar:
    text: str = event.value
    if event.tag not in ("!!binary", _BINARY_TAG):
        return text
    try:
        return base64.b64decode(text.encode(), validate=False)
    except (binascii.Error, ValueError) as error:
        raise _problem(document, "is marked as binary and is not base64", event) from error


def _events(content: bytes, document: str) -> Iterator[yaml.Event]:
    """The events of the one document that content holds, from its root on."""
    anchors: set[str] = set()
    depth = documents = 0
    try:
        for event in yaml.parse(content, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _problem(document, "begins a second YAML document; give one", event)
            elif isinstance(event, yaml.AliasEvent) and event.anchor not in anchors:
                raise _problem(document, "is an alias to an anchor that is not above it", event)
            elif isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise _problem(document, f"is nested deeper than {_MAX_DEPTH} levels", event)
            if isinstance(event, yaml.NodeEvent):
                if event.anchor and not isinstance(event, yaml.AliasEvent):
                    anchors.add(event.anchor)
                yield event
            elif isinstance(event, yaml.CollectionEndEvent):
                yield event
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise problem(document, _words(error.problem), "USERDATA_INVALID_YAML", mark.line + 1 if mark else 0) from None
    except yaml.reader.ReaderError as error:
        line = line_of(content, int(error.position))
        raise problem(document, "has a character that YAML does not allow", "USERDATA_INVALID_YAML", line) from None


def _words(found: str | None) -> str:
    """The parser's complaint without what it quotes of the document, which may be secret."""
    return re.sub(r"'[^']{4,}'", "...", f"is not valid YAML: {found or 'cannot be read'}")


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1 if event.start_mark else 0


def _problem(document: str, what: str, event: yaml.Event) -> Exception:
    return problem(document, what, "USERDATA_INVALID_YAML", _line(event))
