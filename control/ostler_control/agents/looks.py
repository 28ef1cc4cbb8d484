"""When an agent looked at a VM, by its own count: the order of what it says, however and whenever it arrives."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.types.v1 import vm_pb2


@dataclass(frozen=True)
class Look:
    """A moment of an agent. life: one life of it; number: grows from each moment of that life to the next."""

    life: int
    number: int

    def is_before(self, other: Look) -> bool:
        """Whether it is certainly earlier: moments of two lives of an agent, or of two agents, are in no order."""
        return self.life == other.life and self.number < other.number


def look(message: vm_pb2.VmInfo | vm_pb2.Look) -> Look | None:
    """The look of a message; None from an agent that does not tell."""
    found = message.look if isinstance(message, vm_pb2.VmInfo) else message
    return Look(found.life, found.number) if found.life else None
