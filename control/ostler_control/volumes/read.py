"""What a volume's file says of itself."""

from __future__ import annotations

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import volume_pb2

from ostler_control.agents import Agents
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address
from ostler_control.models import Volume
from ostler_control.states import VmState
from ostler_control.volumes.rows import running_host, vm_of
from ostler_control.volumes.wire import plain_ref


def read_file(volume: Volume, agents: Agents) -> volume_pb2.VolumeInfo:
    """Reads the header of a volume's file through the host that runs its VM, else any that reaches it.

    Raises FailedPreconditionError NO_CAPABLE_HOST or HOST_SILENT, and what the agent says of a file that is no volume.
    """
    vm = vm_of(volume)
    running = running_host(vm) if vm is not None and vm.state in (VmState.RUNNING, VmState.STOPPED) else None
    host = running or choose_host(volume.pool, False, agents.busy)
    request = agent_pb2.GetVolumeRequest(volume=plain_ref(volume))
    return agents.call(address(host), lambda agent: agent.volumes.GetVolume, request)
