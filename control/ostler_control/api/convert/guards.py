"""How the guardians of hosts stand."""

from __future__ import annotations

from ostler_control.models import HostGuard
from ostler_control.states import GuardState


def guard_word(guard: HostGuard | None) -> str:
    """How a host's guardian stands; "" when it has nothing to guard and should not."""
    if guard is None or (guard.state is GuardState.OFF and not guard.reason):
        return ""
    return guard.state.value
