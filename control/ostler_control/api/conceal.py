"""What members are not told: the names of hosts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ostler_common.errors import OstlerError

from ostler_control.caller import Caller
from ostler_control.database import session
from ostler_control.models import Host


def conceal(text: str) -> str:
    """The text with every host's name left out."""
    if not text:
        return text
    with session():
        names = {row.name for row in Host.select(Host.name)}
    words = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")

    def replaced(match: re.Match[str]) -> str:
        word = match.group()
        bare = word.rstrip(".")
        return "(hidden)" + word[len(bare) :] if bare in names else word

    return words.sub(replaced, text)


def concealed(error: OstlerError) -> OstlerError:
    """The error as a member may see it."""
    hidden = ("host", "host_id", "probe")
    metadata = {key: conceal(value) for key, value in error.metadata.items() if key not in hidden}
    return type(error)(conceal(error.message), error.reason, metadata, error.violations)


@contextlib.contextmanager
def for_eyes_of(caller: Caller) -> Iterator[None]:
    """Errors raised inside reach the caller as the caller may see them."""
    try:
        yield
    except OstlerError as error:
        if caller.is_admin:
            raise
        raise concealed(error) from None
