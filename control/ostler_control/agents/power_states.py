"""Power states as agents name them and as the database keeps them."""

from __future__ import annotations

from ostler.types.v1 import vm_pb2

from ostler_control.states import PowerState

POWER_STATES = {
    PowerState.STOPPED: vm_pb2.POWER_STATE_STOPPED,
    PowerState.RUNNING: vm_pb2.POWER_STATE_RUNNING,
    PowerState.PAUSED: vm_pb2.POWER_STATE_PAUSED,
    PowerState.CRASHED: vm_pb2.POWER_STATE_CRASHED,
    PowerState.ABSENT: vm_pb2.POWER_STATE_ABSENT,
}
_FROM_WIRE: dict[int, PowerState] = {int(number): state for state, number in POWER_STATES.items()}


def power_state(state: int) -> PowerState:
    """A power state as the database keeps it; UNKNOWN for one that this release does not know."""
    return _FROM_WIRE.get(state, PowerState.UNKNOWN)
