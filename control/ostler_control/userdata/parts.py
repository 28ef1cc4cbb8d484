"""A part: one script, cloud-config or the like, as cloud-init handles it; and what each format demands of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ostler_control.userdata import yaml_reading
from ostler_control.userdata.formats import ANY_BYTES, BY_CONTENT_TYPE, MARKER_FIRST, UTF8_BOM, Format, detect
from ostler_control.userdata.problems import line_of, problem

# Content types that say nothing: cloud-init looks at the content, too.
UNTYPED = frozenset({"text/plain", "text/x-not-multipart", "text/x-shellscript"})
_INTERPRETER = re.compile(rb"#![ \t]*/\S")
_URL = re.compile(rb"(https?|ftp|file)://\S+", re.IGNORECASE)
_INCLUDE_MARKER = re.compile(rb"#include(-once)?", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """document: what errors call it; headers: those beside content type and file name, in their order."""

    content: bytes = field(repr=False)
    content_type: str
    document: str
    filename: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def format(self) -> Format | None:
        """Its format; None for a type that only the guest's own part handlers know."""
        return BY_CONTENT_TYPE.get(self.content_type)


def content_type_of(content: bytes, stated: str) -> str:
    """The type that cloud-init handles content as, from the type that is stated for it."""
    if stated not in UNTYPED:
        return stated
    found = detect(content).format
    return stated if found in (None, Format.MULTIPART) else found.content_type


def trimmed(content: bytes, content_type: str) -> bytes:
    """Content without what keeps a guest from using it: a byte order mark, and whatever stands before the first line
    of a format that is told by its first bytes."""
    content = content.removeprefix(UTF8_BOM)
    detected = detect(content)
    known = BY_CONTENT_TYPE.get(content_type)
    return content[detected.offset :] if known in MARKER_FIRST and detected.format is known else content


def check(part: Part) -> None:
    """Raises InvalidArgumentError, naming document and line, when cloud-init could not use the part."""
    if not part.content.strip():
        raise problem(part.document, "is empty", "USERDATA_EMPTY")
    if part.format is None:
        return
    if part.format not in ANY_BYTES:
        _check_utf8(part)
    if part.format is Format.CLOUD_CONFIG:
        yaml_reading.check_mapping(part.content, part.document)
    elif part.format is Format.SCRIPT and not _INTERPRETER.match(part.content):
        raise problem(
            part.document, "a script begins with its interpreter, such as #!/bin/sh", "USERDATA_NO_INTERPRETER", 1
        )
    elif part.format in (Format.INCLUDE, Format.INCLUDE_ONCE):
        _check_urls(part)


def _check_utf8(part: Part) -> None:
    try:
        part.content.decode()
    except UnicodeDecodeError as error:
        line = line_of(part.content, error.start)
        raise problem(part.document, f"is not UTF-8, as a {part.format} must be", "USERDATA_NOT_UTF8", line) from None


def _check_urls(part: Part) -> None:
    for number, line in enumerate(part.content.splitlines(), 1):
        url = _INCLUDE_MARKER.sub(b"", line.strip(), count=1).strip()
        if url and not url.startswith(b"#") and not _URL.fullmatch(url):
            raise problem(part.document, "an include has one URL per line", "USERDATA_INVALID_URL", number)
