"""What the copy of a running VM's disks is as good as, for people."""

from __future__ import annotations

from ostler.control.v1 import backup_pb2, snapshot_pb2, vm_snapshot_pb2
from ostler.types.v1.volume_pb2 import CONSISTENCY_APPLICATION, CONSISTENCY_CRASH


def consistency(copy: snapshot_pb2.Snapshot | vm_snapshot_pb2.VmSnapshot | backup_pb2.Backup) -> str:
    """Empty if the VM did not run, or it is not known."""
    if copy.consistency == CONSISTENCY_APPLICATION:
        return "application (file systems were frozen)"
    if copy.consistency == CONSISTENCY_CRASH:
        return f"crash ({copy.consistency_reason or 'file systems were not frozen'})"
    return ""
