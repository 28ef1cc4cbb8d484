"""The formats of user data, and how cloud-init tells them apart: by the first line that counts, or by content type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """A format of user data; the value is what people call it."""

    CLOUD_CONFIG = "cloud-config"
    SCRIPT = "script"
    BOOTHOOK = "boothook"
    INCLUDE = "include"
    INCLUDE_ONCE = "include-once"
    JINJA = "jinja"
    ARCHIVE = "cloud-config-archive"
    PART_HANDLER = "part-handler"
    JSON_PATCH = "cloud-config-jsonp"
    MULTIPART = "multipart"

    @property
    def content_type(self) -> str:
        """The MIME type that cloud-init handles this format as."""
        return CONTENT_TYPES[self]


CONTENT_TYPES = {
    Format.CLOUD_CONFIG: "text/cloud-config",
    Format.SCRIPT: "text/x-shellscript",
    Format.BOOTHOOK: "text/cloud-boothook",
    Format.INCLUDE: "text/x-include-url",
    Format.INCLUDE_ONCE: "text/x-include-once-url",
    Format.JINJA: "text/jinja2",
    Format.ARCHIVE: "text/cloud-config-archive",
    Format.PART_HANDLER: "text/part-handler",
    Format.JSON_PATCH: "text/cloud-config-jsonp",
    Format.MULTIPART: "multipart/mixed",
}
BY_CONTENT_TYPE = {content_type: known for known, content_type in CONTENT_TYPES.items()}

# A marker is a whole line, but for include (its URL may follow) and scripts (their interpreter follows).
_MARKERS = (
    (Format.SCRIPT, re.compile(rb"#!")),
    (Format.JINJA, re.compile(rb"##\s*template:\s*jinja$", re.IGNORECASE)),
    (Format.INCLUDE_ONCE, re.compile(rb"#include-once(\s|$)", re.IGNORECASE)),
    (Format.INCLUDE, re.compile(rb"#include(\s|$)", re.IGNORECASE)),
    (Format.CLOUD_CONFIG, re.compile(rb"#cloud-config$", re.IGNORECASE)),
    (Format.ARCHIVE, re.compile(rb"#cloud-config-archive$", re.IGNORECASE)),
    (Format.JSON_PATCH, re.compile(rb"#cloud-config-jsonp$")),
    (Format.BOOTHOOK, re.compile(rb"#cloud-boothook$")),
    (Format.PART_HANDLER, re.compile(rb"#part-handler$", re.IGNORECASE)),
)
_HEADER = re.compile(rb"[!-9;-~]+:|[ \t]+\S")
_MIME_HEADER = re.compile(rb"(content-type|mime-version):", re.IGNORECASE)

# The kernel runs a script, and cloud-init reads these, by their first bytes: what stands before those is cut.
MARKER_FIRST = frozenset({Format.SCRIPT, Format.JINJA, Format.BOOTHOOK, Format.JSON_PATCH})
# These may hold any bytes; all others are text in UTF-8.
ANY_BYTES = frozenset({Format.SCRIPT, Format.BOOTHOOK, Format.MULTIPART})

GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Detected:
    """format: None when no line tells; line: the line that decided, from 1; offset: its first byte that is no space."""

    format: Format | None
    line: int = 1
    offset: int = 0


def detect(content: bytes) -> Detected:
    """The format of an unpacked document: blank lines and ordinary comments may stand before the line that tells."""
    offset = 0
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        bare = line.strip()
        start = offset + len(line) - len(line.lstrip())
        if bare.startswith(b"#"):
            found = next((known for known, marker in _MARKERS if marker.match(bare)), None)
            if found is not None:
                return Detected(found, number, start)
        elif bare:
            return Detected(Format.MULTIPART if is_mime(content[offset:]) else None, number, start)
        offset += len(line)
    return Detected(None)


def is_mime(content: bytes) -> bool:
    """Whether content begins with a block of headers, among them a content type or a MIME version."""
    named = False
    for line in content.splitlines():
        if not line.strip():
            break
        if not _HEADER.match(line):
            return False
        named = named or bool(_MIME_HEADER.match(line))
    return named
