"""A template's user data and a VM's, made into what the guest reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum

from ostler_common.errors import FailedPreconditionError

from ostler_control.userdata import mime
from ostler_control.userdata.documents import Document
from ostler_control.userdata.formats import Format, detect
from ostler_control.userdata.packing import pack
from ostler_control.userdata.parts import Part
from ostler_control.userdata.problems import problem

# How cloud-init joins a cloud-config to those before it: lists grow at their end, mappings take in new keys, and what
# is set already stays. A document's own merge_how comes before this.
MERGE_TYPE = "list(append)+dict(no_replace,recurse_list)+str()"
_MERGE_HEADERS = frozenset({"merge-type", "x-merge-type"})
_MERGED_FORMATS = frozenset({Format.CLOUD_CONFIG, Format.JINJA})
# cloud-init takes for MIME whatever has this in its first 4096 bytes.
_MIME_MARK, _MIME_REACH = b"mime-version:", 4096


class Policy(StrEnum):
    """What a template says about user data given for a VM."""

    ALLOW_OVERRIDE = "ALLOWOVERRIDE"
    APPEND = "APPEND"
    DENY_OVERRIDE = "DENYOVERRIDE"


def combine(
    template: Document | None, own: Document | None, policy: Policy, max_length_bytes: int, name: str = "user data"
) -> bytes:
    """What the guest reads of the template's document and the VM's own; b"" where there is neither.

    name: what errors call the result. Raises FailedPreconditionError USERDATA_DENIED when the policy allows nothing
    beside the template's, and InvalidArgumentError USERDATA_TOO_LARGE for a result that even compressed is too long.
    """
    if template is None or own is None:
        only = own or template
        return pack(alone(only), max_length_bytes, only.name) if only else b""
    if policy is Policy.DENY_OVERRIDE:
        raise FailedPreconditionError(
            f"{own.name} is refused: {template.name} allows no other beside it (policy {policy}); leave it out",
            "USERDATA_DENIED",
            {"policy": str(policy)},
        )
    if policy is Policy.ALLOW_OVERRIDE:
        return pack(alone(own), max_length_bytes, own.name)
    return pack(joined([*template.parts, *own.parts]), max_length_bytes, f"{name} of {template.name} and {own.name}")


def alone(document: Document) -> bytes:
    """A single document as the guest reads it: as it is, or in MIME where cloud-init would not recognize it."""
    return document.content if _is_read_as_it_is(document) else mime.write(document.parts)


def joined(parts: Iterable[Part]) -> bytes:
    """Parts in this order as one multipart document: all take effect, none replaces another.

    Files are numbered, because cloud-init keeps scripts under these names and runs them in the order of the names.
    """
    numbered = [(f"{number:03}-{part.filename or 'part'}", part) for number, part in enumerate(parts, 1)]
    ready = [replace(_merged(part), filename=filename) for filename, part in numbered]
    if len(ready) > mime.MAX_PARTS:
        raise problem("the merged user data", f"has more than {mime.MAX_PARTS} parts", "USERDATA_INVALID_MIME")
    return mime.write(ready)


def _merged(part: Part) -> Part:
    stated = any(name.lower() in _MERGE_HEADERS for name, _ in part.headers)
    if part.format not in _MERGED_FORMATS or stated:
        return part
    return replace(part, headers=(*part.headers, ("Merge-Type", MERGE_TYPE)))


def _is_read_as_it_is(document: Document) -> bool:
    content = document.content
    says_mime = _MIME_MARK in content[:_MIME_REACH].lower()
    if document.format is Format.MULTIPART:
        return says_mime and content.isascii()
    first = len(content) - len(content.lstrip())
    return not says_mime and _is_utf8(content) and detect(content).offset == first


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
