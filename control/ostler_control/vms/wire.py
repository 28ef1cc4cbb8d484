"""VMs as agents hear of them: rows in, protobuf out; and what agents say of them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2

from ostler_control.agents import Agents, HostAddress
from ostler_control.keys import Keyring
from ostler_control.vms.rows import disks_of, nics_of
from ostler_control.volumes import wire

FIRMWARES = {"bios": vm_pb2.FIRMWARE_BIOS, "uefi": vm_pb2.FIRMWARE_UEFI}
POWER_STATES = {
    "stopped": vm_pb2.POWER_STATE_STOPPED,
    "running": vm_pb2.POWER_STATE_RUNNING,
    "paused": vm_pb2.POWER_STATE_PAUSED,
    "crashed": vm_pb2.POWER_STATE_CRASHED,
    "absent": vm_pb2.POWER_STATE_ABSENT,
}
_WORDS: dict[int, str] = {int(number): word for word, number in POWER_STATES.items()}


def spec(vm: Any, keys: Keyring | None, pools: Mapping[str, str] | None = None) -> vm_pb2.VmSpec:
    """The VM as a host needs it. keys: brings the passphrases of its volumes, for the call that this is made for.

    pools: the pool of those volumes that are, or will be, elsewhere than their rows say.
    """
    moved = pools or {}

    def ref(volume: Any) -> Any:
        pool_id = moved.get(volume.id, "")
        return wire.keyed_ref(volume, keys, pool_id=pool_id) if keys else wire.plain_ref(volume, pool_id)

    return vm_pb2.VmSpec(
        vm_id=vm.id,
        name=vm.name,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        firmware=FIRMWARES[vm.firmware],
        disks=[
            vm_pb2.DiskSpec(volume=ref(volume), slot=volume.slot, boot=bool(volume.root), serial=volume.id)
            for volume in disks_of(vm.id)
        ],
        nics=[vm_pb2.NicSpec(mac=nic.mac, bridge=nic.bridge, model=nic.model) for nic in nics_of(vm.id)],
    )


def power_word(state: int) -> str:
    """The database's word for a power state; "" when it is not known."""
    return _WORDS.get(state, "")


def ask(agents: Agents, host: HostAddress, vm_id: str) -> vm_pb2.VmInfo:
    """What a host says of a VM; raises UnavailableError HOST_UNREACHABLE when it does not answer."""
    return agents.call(host, lambda agent: agent.vms.GetVm, agent_pb2.GetVmRequest(vm_id=vm_id))
