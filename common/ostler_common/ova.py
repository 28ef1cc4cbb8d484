"""Reads an OVA archive (DMTF DSP0243: a tar of a descriptor, a manifest and disk files) that anybody may have written.

The archive is read once, front to back, and nothing is extracted by it: the caller gets names and bytes. Only plain
files with plain names pass. Layout of tar: POSIX.1-2001 (ustar, pax), and GNU's binary sizes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from ostler_common.errors import FailedPreconditionError

MAX_MEMBERS = 256
MAX_DESCRIPTOR_BYTES = 2 << 20
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 64 << 40
_BLOCK = 512
_PIECE_BYTES = 1 << 20
_MAX_PAX_BYTES = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}", re.ASCII)
_OCTAL = re.compile(rb"[0-7]{1,12}")
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_PAX_RECORD = re.compile(rb"([0-9]{1,5}) ")
_DIGEST = re.compile(
    r"^(?P<algorithm>SHA(?:1|256|512)) ?\((?P<name>[^)\r\n]{1,200})\) ?= ?(?P<digest>[0-9a-fA-F]{40,128})\r?$", re.M
)

Read = Callable[[int], bytes]
"""Reads up to so many bytes; none at the end."""
Hashers = dict[str, "hashlib._Hash"]
"""Hash objects, by the names of their algorithms."""


@dataclass(frozen=True)
class Member:
    """A file of an archive. offset: of its first byte in the archive."""

    name: str
    size_bytes: int
    offset: int


@dataclass(frozen=True)
class Digest:
    """What a manifest claims of a file. algorithm: as hashlib names it; value: lower-case hex."""

    algorithm: str
    value: str


class Reader:
    """An archive. Use `members`, and for each member `data`, or not, before the next.

    skip: goes on by so many bytes without reading them, where the archive is a file; None: they are read.
    """

    def __init__(self, read: Read, skip: Callable[[int], object] | None = None) -> None:
        self._read = read
        self._skip = skip
        self._offset = 0
        self._left = 0

    def members(self) -> Iterator[Member]:
        """The files, in the archive's order. What the caller has not read of one is skipped.

        Raises FailedPreconditionError: NOT_AN_OVA for what is no archive, OVA_UNSAFE for a link, a device, a path in a
        name, or a name that appears twice, OVA_TOO_LARGE.
        """
        names: set[str] = set()
        pax: dict[str, str] = {}
        while (block := self._block()) is not None:
            name, size_bytes, kind = _parse(block)
            if kind == b"x":
                pax = self._pax(size_bytes)
                continue
            name, size_bytes = pax.get("path", name), _size_of(pax, size_bytes)
            pax = {}
            if kind == b"5" and name.rstrip("/") == ".":
                continue
            if kind not in (b"0", b"\0"):
                _refuse(f"has {name[:80]!r}, which is a link, a folder or another thing than a file", "OVA_UNSAFE")
            name = _checked(name, names)
            names.add(name)
            self._left = size_bytes
            yield Member(name, size_bytes, self._offset)
            self._skip_rest()
            self._exactly(-size_bytes % _BLOCK)

    def data(self) -> Iterator[bytes]:
        """The bytes of the present member, in pieces of at most 1 MiB."""
        while self._left:
            piece = self._read(min(self._left, _PIECE_BYTES))
            if not piece:
                _cut()
            self._left -= len(piece)
            self._offset += len(piece)
            yield piece

    def _skip_rest(self) -> None:
        if self._skip is None or not self._left:
            for _ in self.data():
                pass
            return
        # All but the last byte: reading that proves that the file is not cut.
        self._skip(self._left - 1)
        self._offset += self._left - 1
        self._left = 1
        for _ in self.data():
            pass

    def _block(self) -> bytes | None:
        """The next header; None at the end: a block of zeros, or nothing more after at least one member."""
        block = self._exactly(_BLOCK, allow_end=self._offset > 0)
        return block if block.strip(b"\0") else None

    def _pax(self, size_bytes: int) -> dict[str, str]:
        if size_bytes > _MAX_PAX_BYTES:
            _refuse("has a header that is too long", "OVA_TOO_LARGE")
        text = self._exactly(size_bytes)
        self._exactly(-size_bytes % _BLOCK)
        records = {}
        while text:
            length = _PAX_RECORD.match(text)
            record = text[: int(length[1])] if length else b""
            key, equals, value = record[length.end() if length else 0 : -1].partition(b"=")
            if not equals or not record.endswith(b"\n"):
                _refuse("has a header that is damaged")
            records[key.decode(errors="replace")] = value.decode(errors="replace")
            text = text[len(record) :]
        if records.keys() & {"linkpath", "GNU.sparse.name", "GNU.sparse.major"}:
            _refuse("has a link or a sparse file", "OVA_UNSAFE")
        return records

    def _exactly(self, count: int, allow_end: bool = False) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._read(count - len(data))
            if not piece:
                if allow_end and not data:
                    break
                _cut()
            data += piece
        self._offset += len(data)
        return bytes(data)


def read_small(reader: Reader, member: Member, max_bytes: int) -> bytes:
    """A whole small member. Raises FailedPreconditionError OVA_TOO_LARGE."""
    if member.size_bytes > max_bytes:
        _refuse(f"has {member.name} with {member.size_bytes} bytes; at most {max_bytes} are read", "OVA_TOO_LARGE")
    return b"".join(reader.data())


def is_archive(head: bytes) -> bool:
    """Whether a file begins like a tar archive."""
    return head[257:262] == b"ustar"


def parse_manifest(data: bytes) -> dict[str, Digest]:
    """The digests that a manifest (.mf) claims, by file name."""
    text = data[:MAX_MANIFEST_BYTES].decode(errors="replace")
    return {
        found["name"]: Digest(found["algorithm"].lower(), found["digest"].lower()) for found in _DIGEST.finditer(text)
    }


def hashers() -> Hashers:
    """One hash object of every algorithm that a manifest may use."""
    return {
        "sha1": hashlib.sha1(usedforsecurity=False),
        "sha256": hashlib.sha256(),
        "sha512": hashlib.sha512(),
    }


def is_as_claimed(claimed: Digest | None, found: Hashers) -> bool:
    """Whether a file is what the manifest says; true when that says nothing."""
    return claimed is None or found[claimed.algorithm].hexdigest() == claimed.value


def check_digest(name: str, claimed: Digest | None, found: Hashers) -> None:
    """Raises FailedPreconditionError FILE_CORRUPT when a file is not what the manifest says."""
    if not is_as_claimed(claimed, found):
        raise FailedPreconditionError(
            f"{name} is not what the manifest says (export or copy it again)", "FILE_CORRUPT", {"file": name}
        )


def is_plain_name(name: str) -> bool:
    """Whether a file of an archive may have that name."""
    return bool(_NAME.fullmatch(name)) and ".." not in name


def _check_name(name: str) -> str:
    if not is_plain_name(name):
        _refuse(
            f"has a file named {name[:80]!r}; a name has letters, digits, dots, dashes and spaces, and no path",
            "OVA_UNSAFE",
        )
    return name


def _parse(block: bytes) -> tuple[str, int, bytes]:
    """Name, size and type of a header block."""
    if not is_archive(block) or _number(block[148:156]) != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        _refuse("is no tar archive, or a damaged one")
    prefix = block[345:500].rstrip(b"\0").decode(errors="replace") if block[257:263] == b"ustar\0" else ""
    name = block[:100].partition(b"\0")[0].decode(errors="replace")
    return f"{prefix}/{name}" if prefix else name, _number(block[124:136]), block[156:157]


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary with the first bit set."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
    digits = field.strip(b" \0")
    if not _OCTAL.fullmatch(digits or b"0"):
        _refuse("is no tar archive, or a damaged one")
    return int(digits or b"0", 8)


def _size_of(pax: dict[str, str], size_bytes: int) -> int:
    text = pax.get("size", str(size_bytes))
    if not _NUMBER.fullmatch(text) or int(text) > MAX_FILE_BYTES:
        _refuse(f"has a file of more than {MAX_FILE_BYTES >> 40} TiB", "OVA_TOO_LARGE")
    return int(text)


def _checked(name: str, names: set[str]) -> str:
    name = _check_name(name.removeprefix("./"))
    if name in names:
        _refuse(f"has two files named {name}", "OVA_UNSAFE")
    if len(names) >= MAX_MEMBERS:
        _refuse(f"has more than {MAX_MEMBERS} files", "OVA_TOO_LARGE")
    return name


def _cut() -> NoReturn:
    _refuse("ends too early (download or copy it again)")


def _refuse(what: str, reason: str = "NOT_AN_OVA") -> NoReturn:
    raise FailedPreconditionError(f"the OVA archive {what}", reason)
