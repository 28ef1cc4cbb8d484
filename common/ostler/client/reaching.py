"""Calls that outlast a restart of the control plane."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ostler_common.errors import CancelledError, DeadlineExceededError, UnavailableError

T = TypeVar("T")

SILENCE_S = 60.0
PAUSE_S = 1.0
# What a control plane that is stopping, away, or starting makes of a call.
AWAY = (UnavailableError, CancelledError, DeadlineExceededError)


def reached(call: Callable[[], T], on_silence: Callable[[], None] | None = None) -> T:
    """The answer of a call that only reads, which is repeated for a minute while the control plane does not answer.

    on_silence: is called before each repetition. Raises the call's error after that minute, any other error at once.
    """
    begin = time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            return call()
        except AWAY:
            if asked - begin > SILENCE_S:
                raise
        if on_silence is not None:
            on_silence()
        time.sleep(PAUSE_S)
