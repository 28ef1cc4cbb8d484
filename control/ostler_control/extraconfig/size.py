"""The size of a VM is its service offering's: extra configuration may only say where in the VM its memory is."""

from __future__ import annotations

from collections.abc import Iterable

from ostler_common.errors import FailedPreconditionError
from ostler_common.scaled_size import parse_scaled_size
from ostler_common.xml_fragment import Node


def check_size(nodes: Iterable[Node], memory_bytes: int) -> None:
    """Refuses NUMA cells that do not add up to the VM's memory: libvirt would give it theirs.

    Raises FailedPreconditionError EXTRA_CONFIG_OWNED.
    """
    cells = [node for top in nodes for path, node in top.walk() if path == ("cpu", "numa", "cell")]
    if not cells:
        return
    try:
        total = sum(parse_scaled_size(cell.attributes.get("memory", ""), cell.attributes.get("unit")) for cell in cells)
    except ValueError as error:
        raise _refusal(f"the memory of a cell {error}") from None
    if total != memory_bytes:
        raise _refusal(f"its cells have {total} bytes of memory, and the VM has {memory_bytes}")


def _refusal(what: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"extra configuration may not have this cpu/numa: {what}; the size is the service offering's",
        "EXTRA_CONFIG_OWNED",
        {"element": "cpu/numa/cell", "rule": "OWNED"},
    )
