"""MIME multipart user data: read into parts, and written so that every part comes out of cloud-init byte for byte."""

from __future__ import annotations

import base64
import email.errors
import email.message
import email.policy
import re
from collections.abc import Iterator, Sequence
from hashlib import sha256

from ostler_control.userdata.packing import unzip
from ostler_control.userdata.parts import Part, content_type_of, trimmed
from ostler_control.userdata.problems import problem

MAX_PARTS = 100
_MAX_CONTAINERS = 100
_GZIP_TYPES = frozenset(
    f"application/{name}"
    for name in (
        "gzip",
        "gzip-compressed",
        "gzipped",
        "x-compress",
        "x-compressed",
        "x-gunzip",
        "x-gzip",
        "x-gzip-compressed",
    )
)
# Written anew, or about the transport.
_OWN_HEADERS = frozenset(
    {
        "content-type",
        "content-transfer-encoding",
        "content-disposition",
        "mime-version",
        "message-id",
        "number-attachments",
    }
)
_BASE64_DEFECTS = (
    email.errors.InvalidBase64CharactersDefect,
    email.errors.InvalidBase64LengthDefect,
    email.errors.InvalidBase64PaddingDefect,
)
_CONTAINER_DEFECTS: dict[type[Exception], str] = {
    email.errors.NoBoundaryInMultipartDefect: "has a multipart without a boundary",
    email.errors.StartBoundaryNotFoundDefect: "has a multipart whose boundary never comes",
    email.errors.CloseBoundaryNotFoundDefect: "has a multipart that was cut short: its closing boundary is missing",
}
_CONTAINER = re.compile(rb"multipart/|message/", re.IGNORECASE)
_CONTENT_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
_PRINTABLE = re.compile(r"[ -~]*")
# Lines that mail software passes on unchanged: no carriage return, no other control character, not too long.
_PLAIN = re.compile(rb"(?:[\t -~]{0,900}\n)*[\t -~]{0,900}")


def read(content: bytes, document: str) -> tuple[Part, ...]:
    """The parts of a MIME document, in order; nested containers are dissolved, as cloud-init does.

    Raises InvalidArgumentError USERDATA_INVALID_MIME, and what `unzip` raises for a compressed part.
    """
    if len(_CONTAINER.findall(content)) > _MAX_CONTAINERS:
        raise problem(document, f"has more than {_MAX_CONTAINERS} MIME containers", "USERDATA_INVALID_MIME")
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    parts: list[Part] = []
    for found in message.walk():
        if found.get_content_maintype() == "multipart":
            _check_container(found, document)
            continue
        if len(parts) == MAX_PARTS:
            raise problem(document, f"has more than {MAX_PARTS} parts", "USERDATA_INVALID_MIME")
        parts.append(_part(found, f"{document}, part {len(parts) + 1}"))
    if not parts:
        raise problem(document, "has no parts", "USERDATA_EMPTY")
    return tuple(parts)


def write(parts: Sequence[Part]) -> bytes:
    """A multipart document of these parts; the same bytes every time. Its headers and encoding are plain ASCII."""
    blocks = [b"\n".join(_block(part)) for part in parts]
    boundary = _boundary(blocks)
    head = (
        f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{boundary}"\nNumber-Attachments: {len(parts)}\n'
    )
    marker = f"\n--{boundary}".encode()
    return head.encode() + b"".join(marker + b"\n" + block for block in blocks) + marker + b"--\n"


def _check_container(container: email.message.Message, document: str) -> None:
    for defect in container.defects:
        words = _CONTAINER_DEFECTS.get(type(defect))
        if words:
            raise problem(document, words, "USERDATA_INVALID_MIME")


def _part(found: email.message.Message, document: str) -> Part:
    stated, filename = found.get_content_type(), found.get_filename() or ""
    name = f"{document} ({filename})" if re.fullmatch(r"[\w.-]{1,64}", filename, re.ASCII) else document
    if found.is_multipart():
        raise problem(name, f"is of type {stated}, which cloud-init does not read", "USERDATA_INVALID_MIME")
    content = found.get_payload(decode=True)
    assert isinstance(content, bytes)
    if any(isinstance(defect, _BASE64_DEFECTS) for defect in found.defects):
        raise problem(name, "is not the base64 that its header says", "USERDATA_INVALID_MIME")
    if stated in _GZIP_TYPES:
        content, stated = unzip(content, name), "text/plain"
    if not _CONTENT_TYPE.fullmatch(stated):
        raise problem(name, "has no valid content type", "USERDATA_INVALID_MIME")
    content_type = content_type_of(content, stated)
    headers = [header(key, str(value), name) for key, value in found.items() if key.lower() not in _OWN_HEADERS]
    return Part(trimmed(content, content_type), content_type, name, filename, tuple(headers))


def header(name: str, value: str, document: str) -> tuple[str, str]:
    """A header of a part, on one line; raises InvalidArgumentError USERDATA_INVALID_MIME unless it is plain ASCII."""
    text = " ".join(value.split())
    if not _HEADER_NAME.fullmatch(name) or not _PRINTABLE.fullmatch(text):
        raise problem(document, "has a header that is not plain ASCII", "USERDATA_INVALID_MIME")
    return name, text


def _block(part: Part) -> Iterator[bytes]:
    plain = bool(_PLAIN.fullmatch(part.content))
    yield f"Content-Type: {part.content_type}".encode()
    yield f"Content-Transfer-Encoding: {'7bit' if plain else 'base64'}".encode()
    if part.filename:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", part.filename)
        yield f'Content-Disposition: attachment; filename="{name}"'.encode()
    yield from (f"{name}: {value}".encode() for name, value in part.headers)
    yield b""
    yield part.content if plain else base64.encodebytes(part.content)


def _boundary(blocks: Sequence[bytes]) -> str:
    """A line that no block has: made from their content, so that the same parts make the same document."""
    digest = sha256(b"\0".join(blocks))
    while True:
        boundary = f"=={digest.hexdigest()[:32]}=="
        if not any(boundary.encode() in block for block in blocks):
            return boundary
        digest.update(b"again")
