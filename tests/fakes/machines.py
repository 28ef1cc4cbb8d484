"""The VMs that an agent in memory has."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.types.v1 import vm_pb2 as types_vm_pb2

RUNNING, STOPPED, ABSENT = (
    types_vm_pb2.POWER_STATE_RUNNING,
    types_vm_pb2.POWER_STATE_STOPPED,
    types_vm_pb2.POWER_STATE_ABSENT,
)


@dataclass
class Machine:
    """A VM that a host knows. memory: the content of what its guest continued from, "" if it booted."""

    spec: types_vm_pb2.VmSpec
    running: bool = False
    migrating: bool = False
    memory: str = ""


@dataclass
class FakeTpm:
    """The state of a TPM on a host. passphrase: opens it; content: what the guest has stored; copy_id: of the copy that
    it was put in place from."""

    passphrase: bytes
    content: bytes
    copy_id: str = ""


def without_keys(spec: types_vm_pb2.VmSpec) -> types_vm_pb2.VmSpec:
    kept = types_vm_pb2.VmSpec()
    kept.CopyFrom(spec)
    for disk in kept.disks:
        disk.volume.key.ClearField("passphrase")
    if kept.HasField("tpm"):
        kept.tpm.key.ClearField("passphrase")
    return kept
