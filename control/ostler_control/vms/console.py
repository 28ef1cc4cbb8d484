"""A running VM's serial console and screen, relayed from its host."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.errors import from_rpc_error
from ostler_common.hypervisors import Function

from ostler_control.agents import Agents, HostAddress
from ostler_control.agents.client import broken, unreachable
from ostler_control.hosts.rows import address
from ostler_control.hypervisors import rules
from ostler_control.models import Vm
from ostler_control.vms.rows import running_host


def console(
    agents: Agents, vm_id: str, host: HostAddress, typed: Iterator[bytes], force: bool, context: grpc.ServicerContext
) -> Iterator[bytes]:
    """What the guest prints, for as long as the caller's call lasts; `typed` is sent to it.

    Raises what the agent raises (CONSOLE_BUSY, ...), HOST_UNREACHABLE.
    """

    def inputs() -> Iterator[agent_pb2.ConsoleInput]:
        yield agent_pb2.ConsoleInput(vm_id=vm_id, force=force)
        for data in typed:
            yield agent_pb2.ConsoleInput(data=data)

    call = agents.at(host).vms.Console(inputs())

    def cancel() -> None:
        call.cancel()

    if not context.add_callback(cancel):  # the caller has gone already
        call.cancel()
    try:
        for output in call:
            yield output.data
    except grpc.RpcError as rpc_error:
        error = from_rpc_error(rpc_error)
        if not context.is_active():
            return
        raise (unreachable(host, error) if error.reason == "RPC" and broken(error) else error) from None


def screenshot(agents: Agents, vm: Vm) -> bytes:
    """A picture of a running VM's screen, PNG.

    Raises FailedPreconditionError VM_STATE, HOST_SILENT or FUNCTION_NOT_SUPPORTED.
    """
    host = running_host(vm)
    rules.need(Function.SCREENSHOT, host)
    request = agent_pb2.ScreenshotRequest(vm_id=vm.id)
    return agents.call(address(host), lambda agent: agent.vms.Screenshot, request).png
