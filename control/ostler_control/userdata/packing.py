"""Base64 and gzip around user data, each undone once and within bounds."""

from __future__ import annotations

import base64
import gzip
import re
import zlib

from ostler_control.userdata.formats import GZIP_MAGIC
from ostler_control.userdata.problems import problem

DEFAULT_MAX_LENGTH_BYTES = 32_768
MAX_LENGTH_LIMIT_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 1 << 20
_MAX_BASE64_BYTES = MAX_LENGTH_LIMIT_BYTES * 3 // 2
_MAX_GZIP_MEMBERS = 16
# No format of user data has only these characters, so nothing but base64 looks like it.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{8,}={0,2}")


def decode_base64(data: bytes, document: str) -> bytes:
    """What is inside base64, decoded exactly once; other data as it is.

    Raises InvalidArgumentError USERDATA_TOO_LARGE (before decoding) or USERDATA_INVALID_BASE64.
    """
    if len(data) > _MAX_BASE64_BYTES:
        raise too_large(document, len(data), MAX_LENGTH_LIMIT_BYTES)
    compact = b"".join(data.split())
    if not _BASE64.fullmatch(compact):
        return data
    if len(compact) % 4:
        raise problem(document, "is base64 that was cut short; give all of it", "USERDATA_INVALID_BASE64")
    return base64.b64decode(compact)


def unzip(data: bytes, document: str) -> bytes:
    """What is inside gzip, at most MAX_UNPACKED_BYTES, whatever the compressed data claims.

    Raises InvalidArgumentError USERDATA_TOO_LARGE or USERDATA_INVALID_GZIP.
    """
    content, rest = b"", data
    for _ in range(_MAX_GZIP_MEMBERS):
        unpacker = zlib.decompressobj(wbits=31)
        try:
            content += unpacker.decompress(rest, MAX_UNPACKED_BYTES + 1 - len(content))
        except zlib.error as error:
            raise problem(document, "is damaged gzip data", "USERDATA_INVALID_GZIP") from error
        if len(content) > MAX_UNPACKED_BYTES:
            raise problem(
                document, f"unpacks to more than {MAX_UNPACKED_BYTES} bytes; make it smaller", "USERDATA_TOO_LARGE"
            )
        if not unpacker.eof:
            raise problem(document, "is gzip data that was cut short", "USERDATA_INVALID_GZIP")
        rest = unpacker.unused_data.lstrip(b"\0")
        if not rest:
            break
    else:
        raise problem(document, f"has more than {_MAX_GZIP_MEMBERS} gzip members", "USERDATA_INVALID_GZIP")
    if content.startswith(GZIP_MAGIC):
        raise problem(
            document, "is compressed twice, and cloud-init unpacks once; compress it once", "USERDATA_INVALID_GZIP"
        )
    return content


def pack(content: bytes, max_length_bytes: int, document: str) -> bytes:
    """Content as the guest gets it: compressed only when it is too long otherwise; the same bytes every time.

    Raises InvalidArgumentError USERDATA_TOO_LARGE.
    """
    if len(content) <= max_length_bytes:
        return content
    packed = gzip.compress(content, mtime=0)
    if len(packed) > max_length_bytes:
        raise too_large(document, len(packed), max_length_bytes)
    return packed


def check_length(data: bytes, max_length_bytes: int, document: str) -> None:
    """Raises InvalidArgumentError USERDATA_TOO_LARGE when data is longer than is allowed."""
    if len(data) > max_length_bytes:
        raise too_large(document, len(data), max_length_bytes)


def too_large(document: str, length: int, max_length_bytes: int) -> Exception:
    """The one error about length."""
    return problem(
        document,
        f"has {length} bytes and at most {max_length_bytes} are allowed (setting vm.userdata.max.length, up to "
        f"{MAX_LENGTH_LIMIT_BYTES}); make it smaller, compress it, or include it from a URL",
        "USERDATA_TOO_LARGE",
    )
