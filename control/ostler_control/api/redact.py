"""Redacts host names from what members see."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from ostler_common.errors import OstlerError

from ostler_control.caller import Caller
from ostler_control.database import session
from ostler_control.models import Host

HIDDEN = "(hidden)"
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")

Conceal = Callable[[str], str]


def concealer() -> Conceal:
    """Removes host names from texts. It knows the present hosts: create one per response."""
    names: set[str] | None = None

    def conceal(text: str) -> str:
        nonlocal names
        if not text:
            return text
        if names is None:
            with session():
                names = {row.name for row in Host.select(Host.name)}
        known = names
        return _WORD.sub(lambda match: HIDDEN if match.group() in known else match.group(), text)

    return conceal


def concealed(error: OstlerError, conceal: Conceal) -> OstlerError:
    """The error as a member may see it."""
    about_hosts = ("host", "host_id", "probe")
    metadata = {key: conceal(value) for key, value in error.metadata.items() if key not in about_hosts}
    return type(error)(conceal(error.message), error.reason, metadata, error.violations)


@contextlib.contextmanager
def redact_errors_for(caller: Caller) -> Iterator[None]:
    """Redacts errors raised inside to what the caller may see."""
    try:
        yield
    except OstlerError as error:
        if caller.is_admin:
            raise
        raise concealed(error, concealer()) from None
