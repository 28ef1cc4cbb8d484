"""What a volume's file says of itself."""

from __future__ import annotations

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import volume_pb2

from ostler_control import events
from ostler_control.agents import Agents
from ostler_control.database import transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address
from ostler_control.models import Volume
from ostler_control.states import VmState, VolumeState
from ostler_control.volumes.rows import running_host, vm_of
from ostler_control.volumes.wire import ENCRYPT_FORMATS, FORMATS, plain_ref


def read_file(volume: Volume, agents: Agents) -> volume_pb2.VolumeInfo:
    """Reads the header of a volume's file through the host that runs its VM, else any that reaches it.

    A header that contradicts the volume's row is recorded as an event: the file was replaced, or is damaged.

    Raises FailedPreconditionError NO_CAPABLE_HOST or HOST_SILENT, and what the agent says of a file that is no volume.
    """
    vm = vm_of(volume)
    running = running_host(vm) if vm is not None and vm.state in (VmState.RUNNING, VmState.STOPPED) else None
    host = running or choose_host(volume.pool, False, agents.busy)
    request = agent_pb2.GetVolumeRequest(volume=plain_ref(volume))
    info = agents.call(address(host), lambda agent: agent.volumes.GetVolume, request)
    if volume.state == VolumeState.READY:
        _compare(volume, info, host.name)
    return info


def _compare(volume: Volume, info: volume_pb2.VolumeInfo, host_name: str) -> None:
    expected = (FORMATS[volume.format], ENCRYPT_FORMATS["luks" if volume.passphrase_id else "none"])
    if (info.format, info.encrypt_format) == expected:
        return
    found_format = next((name for name, format in FORMATS.items() if format == info.format), "of an unknown format")
    found = _describe(found_format, info.encrypt_format == volume_pb2.ENCRYPT_FORMAT_LUKS)
    with transaction():
        events.record(
            "volume.header-mismatch",
            events.Outcome.NOTICED,
            events.SYSTEM,
            "volume",
            volume.id,
            volume.name,
            f"its file, read by host {host_name}, is {found}; it should be "
            f"{_describe(volume.format, bool(volume.passphrase_id))}: it was replaced, or is damaged",
            account_id=volume.account_id,
        )


def _describe(format: str, is_encrypted: bool) -> str:
    return f"{format} and {'encrypted' if is_encrypted else 'not encrypted'}"
