"""Limits of a disk's I/O, as values: the agent and the control plane check them alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ostler.types.v1 import volume_pb2

from ostler_common.errors import bad_field

MAX_IOPS = 10_000_000
MAX_BYTES_PER_S = 1 << 40
MAX_BURST_S = 600


@dataclass(frozen=True)
class IoLimits:
    """Reads and writes together; 0: no limit. burst_s: how long a burst may last."""

    iops: int = 0
    bytes_per_s: int = 0
    burst_iops: int = 0
    burst_bytes_per_s: int = 0
    burst_s: int = 0

    def __bool__(self) -> bool:
        return bool(self.iops or self.bytes_per_s)


NO_LIMITS = IoLimits()


def from_message(message: volume_pb2.IoLimits, path: str = "limits") -> IoLimits:
    """Raises InvalidArgumentError INVALID_IO_LIMIT."""
    _check_pair(path, "iops", message.iops, message.burst_iops, MAX_IOPS)
    _check_pair(path, "bytes_per_s", message.bytes_per_s, message.burst_bytes_per_s, MAX_BYTES_PER_S)
    has_burst = bool(message.burst_iops or message.burst_bytes_per_s)
    if not 0 <= message.burst_s <= MAX_BURST_S or (message.burst_s and not has_burst):
        raise _bad(f"{path}.burst_s", f"must be 1 to {MAX_BURST_S}, and only with a burst")
    found = IoLimits(message.iops, message.bytes_per_s, message.burst_iops, message.burst_bytes_per_s, message.burst_s)
    return replace(found, burst_s=found.burst_s or 1) if has_burst else found


def to_message(limits: IoLimits) -> volume_pb2.IoLimits:
    """The same for the wire."""
    return volume_pb2.IoLimits(
        iops=limits.iops,
        bytes_per_s=limits.bytes_per_s,
        burst_iops=limits.burst_iops,
        burst_bytes_per_s=limits.burst_bytes_per_s,
        burst_s=limits.burst_s,
    )


def _check_pair(path: str, name: str, limit: int, burst: int, most: int) -> None:
    if not 0 <= limit <= most:
        raise _bad(f"{path}.{name}", f"must be 0 (no limit) to {most}")
    if burst and not (limit and limit < burst <= most):
        raise _bad(f"{path}.burst_{name}", f"must be more than {name}, which must be set, and at most {most}")


def _bad(path: str, problem: str) -> Exception:
    return bad_field(path, problem, "INVALID_IO_LIMIT")
