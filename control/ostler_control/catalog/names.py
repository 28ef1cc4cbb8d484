"""The rules for names."""

from __future__ import annotations

import re
import uuid

from ostler_common.errors import bad_field

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_USER_NAME = re.compile(r"[a-z][a-z0-9.-]{0,62}", re.ASCII)


def is_id(text: str) -> bool:
    """Whether this is an object's id (a UUID with its dashes, in either case)."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def check_name(field: str, name: str) -> str:
    """Returns the name; raises InvalidArgumentError when it is none, or could be taken for an id."""
    if not _NAME.fullmatch(name):
        raise bad_field(
            field, "must be 1 to 63 of [A-Za-z0-9._-] and begin with a letter or digit", reason="INVALID_NAME"
        )
    if is_id(name):
        raise bad_field(field, "must not look like an id (a UUID)", reason="INVALID_NAME")
    return name


def check_user_name(field: str, name: str) -> str:
    """Returns the user's name; raises InvalidArgumentError when it is none: it becomes part of a certificate."""
    if not _USER_NAME.fullmatch(name):
        raise bad_field(field, "must be 1 to 63 of [a-z0-9.-] and begin with a letter", reason="INVALID_NAME")
    return name
