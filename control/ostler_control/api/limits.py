"""How large each field of a request may be: one table, asked for every message before a handler sees it.

A field that is not in the table has the default of its kind, so that a new field is limited from its first day.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from ostler_common.errors import InvalidArgumentError, bad_field
from ostler_common.limits import Limits

KIB, MIB = 1 << 10, 1 << 20

# Defaults: bytes of a string (UTF-8) or of a bytes field, and elements of a repeated field or a map.
MAX_STRING_BYTES = KIB
MAX_BYTES = 4 * KIB
MAX_ELEMENTS = 1000

# By field name: the same name has the same limit in every message. Bytes.
MAX_FIELD_BYTES: Mapping[str, int] = {
    "backup": 256 * KIB,
    "ca_pem": 64 * KIB,
    "client_certificate": 64 * KIB,
    "csr_pem": 16 * KIB,
    "data": 3 * MIB // 2,  # a piece of an upload (1 MiB), or user data (1 MiB at most) in base64
    "description": 4 * KIB,
    "details": 4 * KIB,
    "document": 256 * KIB,
    "extra_configs": 64 * KIB,
    "filter": 256,
    "keys": 64,
    "known_hosts": 64 * KIB,
    "ovf": MIB,
    "private_key": 16 * KIB,
    "qemu_csr_pem": 16 * KIB,
    "ssh_keys": 8 * KIB,
    "token": 2 * KIB,
    "url": 2 * KIB,
    "value": 16 * KIB,
    "values": 4 * KIB,
    "xml": 64 * KIB,
}
# Elements.
MAX_FIELD_ELEMENTS: Mapping[str, int] = {
    "affinity_groups": 64,
    "details": 100,
    "extra_configs": 32,
    "hosts": 1000,
    "labels": 64,
    "nics": 64,
    "options": 32,
    "remove": 64,
    "set": 64,
    "ssh_keys": 50,
    "values": 100,
    "variables": 100,
}

MAX_READ_S = 10.0


def check(message: Message) -> None:
    """Raises InvalidArgumentError FIELD_TOO_LARGE, naming the first field that is larger than it may be, and
    INVALID_CHARACTER."""
    _check(message, "")


def limits(workers: int) -> Limits:
    """The limits of the main port: one caller takes at most half of the threads for short calls, a quarter of those for
    long ones."""
    return Limits(short=max(workers // 2, 1), long=workers, read_s=MAX_READ_S, check=check)


def enrollment_limits() -> Limits:
    """The limits of the enrollment port, which anybody may call: per address."""
    return Limits(short=4, long=1, read_s=5.0, check=check)


def _check(message: Message, prefix: str) -> None:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _check_map(field, value, path)
        elif field.is_repeated:
            _check_count(field.name, len(value), path)
            for index, element in enumerate(value):
                _check_value(field, element, f"{path}[{index}]")
        else:
            _check_value(field, value, path)


def _check_map(field: FieldDescriptor, entries: Mapping[str, object], path: str) -> None:
    _check_count(field.name, len(entries), path)
    for key, value in entries.items():
        _check_size("key", key, MAX_STRING_BYTES, path)
        if isinstance(value, Message):
            _check(value, f"{path}.")
        else:
            _check_size(field.name, value, MAX_STRING_BYTES, path)


def _check_value(field: FieldDescriptor, value: object, path: str) -> None:
    if isinstance(value, Message):
        _check(value, f"{path}.")
    else:
        _check_size(field.name, value, MAX_BYTES if isinstance(value, bytes) else MAX_STRING_BYTES, path)


def _check_size(name: str, value: object, default: int, path: str) -> None:
    if not isinstance(value, (str, bytes)):
        return
    limit = MAX_FIELD_BYTES.get(name, default)
    # A string of N characters has at least N bytes: what is far too long is not encoded first.
    if len(value) > limit or (isinstance(value, str) and len(value.encode()) > limit):
        raise _too_large(path, f"is longer than {limit} bytes")
    if isinstance(value, str) and "\0" in value:  # PostgreSQL stores no text with it
        raise bad_field(path, "must not contain the character NUL", "INVALID_CHARACTER")


def _check_count(name: str, count: int, path: str) -> None:
    limit = MAX_FIELD_ELEMENTS.get(name, MAX_ELEMENTS)
    if count > limit:
        raise _too_large(path, f"has more than {limit} elements")


def _too_large(path: str, problem: str) -> InvalidArgumentError:
    return bad_field(path, problem, "FIELD_TOO_LARGE")
