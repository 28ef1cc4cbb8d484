"""Short words for these tests."""

from __future__ import annotations

from ostler_control.userdata import documents
from ostler_control.userdata.documents import Document
from ostler_control.userdata.merging import Policy, combine

MAX = 32_768


def read(data: bytes, name: str = "user data of VM web", max_length_bytes: int = MAX) -> Document:
    """A document."""
    return documents.read(data, name, max_length_bytes)


def append(template: bytes, own: bytes, max_length_bytes: int = MAX) -> bytes:
    """A template's document and a VM's, one after the other."""
    return combine(
        read(template, "user data of template debian", max_length_bytes),
        read(own, max_length_bytes=max_length_bytes),
        Policy.APPEND,
        max_length_bytes,
    )
