"""A document of user data as its author gave it: decoded, unpacked, split into parts, and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ostler_control.userdata import mime, yaml_reading
from ostler_control.userdata.formats import GZIP_MAGIC, UTF8_BOM, Format, detect
from ostler_control.userdata.packing import check_length, decode_base64, unzip
from ostler_control.userdata.parts import UNTYPED, Part, check, content_type_of, trimmed
from ostler_control.userdata.problems import problem

_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_ARCHIVE_OWN_FIELDS = frozenset({"content", "type", "filename", "content-disposition", "content-type"})
_NAMES = (
    "#cloud-config, #! and an interpreter, #cloud-boothook, #include, ## template: jinja, #cloud-config-archive, "
    "#part-handler, or MIME headers"
)


@dataclass(frozen=True)
class Document:
    """name: what errors call it; content: unpacked, as the guest could read it alone; parts: what it consists of."""

    name: str
    format: Format
    gzipped: bool
    content: bytes = field(repr=False)
    parts: tuple[Part, ...]


def read(data: bytes, name: str, max_length_bytes: int) -> Document:
    """The document in data: text, base64 of it (decoded once), or gzip of it.

    Raises InvalidArgumentError with a reason that begins with USERDATA_, naming the document and the line.
    """
    packed = decode_base64(data, name)
    check_length(packed, max_length_bytes, name)
    gzipped = packed.startswith(GZIP_MAGIC)
    content = (unzip(packed, name) if gzipped else packed).removeprefix(UTF8_BOM)
    if not content.strip():
        raise problem(name, "is empty", "USERDATA_EMPTY")
    if content.startswith(_UTF16_BOMS):
        raise problem(name, "is UTF-16; save it as UTF-8", "USERDATA_NOT_UTF8", 1)
    detected = detect(content)
    if detected.format is None:
        raise problem(name, f"is of no known format; begin it with {_NAMES}", "USERDATA_UNRECOGNIZED", detected.line)
    if detected.format is Format.MULTIPART:
        content = content[detected.offset :]
        leaves = mime.read(content, name)
    else:
        content = trimmed(content, detected.format.content_type)
        leaves = (Part(content, detected.format.content_type, name),)
    parts = tuple(part for leaf in leaves for part in _dissolve(leaf))
    _check_all(parts)
    return Document(name, detected.format, gzipped, content, parts)


def _dissolve(leaf: Part) -> Iterator[Part]:
    """The entries of an archive as parts of their own, as cloud-init makes them; any other part as it is."""
    if leaf.format is not Format.ARCHIVE:
        yield leaf
        return
    check(leaf)
    entries = yaml_reading.read_archive(leaf.content, leaf.document)
    if len(entries) > mime.MAX_PARTS:
        raise problem(leaf.document, f"has more than {mime.MAX_PARTS} entries", "USERDATA_INVALID_YAML")
    for number, entry in enumerate(entries, 1):
        yield _entry(entry, f"{leaf.document}, entry {number}")


def _entry(entry: yaml_reading.Entry, document: str) -> Part:
    fields = {key: value if isinstance(value, str) else value.decode("latin-1") for key, value in entry.fields.items()}
    raw = entry.fields.get("content", "")
    content = raw if isinstance(raw, bytes) else raw.encode()
    default = "application/octet-stream" if isinstance(raw, bytes) else Format.CLOUD_CONFIG.content_type
    stated = fields.get("type", "").lower() or content_type_of(content, "text/plain")
    if not fields.get("type") and stated in UNTYPED and stated != Format.SCRIPT.content_type:
        stated = default
    headers = tuple(
        mime.header(key, value, document) for key, value in fields.items() if key.lower() not in _ARCHIVE_OWN_FIELDS
    )
    return Part(content, stated, document, fields.get("filename", ""), headers)


def _check_all(parts: tuple[Part, ...]) -> None:
    handled = any(part.format is Format.PART_HANDLER for part in parts)
    for part in parts:
        if part.format is None and not handled and part.content_type in UNTYPED:
            raise problem(part.document, f"is of no known format; begin it with {_NAMES}", "USERDATA_UNRECOGNIZED", 1)
        check(part)
