"""A VM's serial console, its log, and the screen with its keyboard, relayed from the VM's host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    bad_field,
    from_rpc_error,
)
from ostler_common.hypervisors import Function
from ostler_common.key_names import parse_keys

from ostler_control import events, settings
from ostler_control.agents import Agents, HostAddress
from ostler_control.agents.client import broken, unreachable
from ostler_control.hosts.rows import address, is_up, silent
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Vm
from ostler_control.vms.idle import IdleTimer
from ostler_control.vms.rfb import ViewerInput
from ostler_control.vms.rows import running_host

if TYPE_CHECKING:
    from grpc import _CallIterator

_LOG_ADVICE = "`ostler vm log --follow` watches without a limit"
_SCREEN_ADVICE = "connect again; the setting vm.console.idle.timeout has the time"


def console(
    agents: Agents,
    vm_id: str,
    host: HostAddress,
    typed: Iterator[bytes],
    force: bool,
    idle_timeout_s: float,
    context: grpc.ServicerContext,
) -> Iterator[bytes]:
    """What the guest prints, for as long as the caller's call lasts; `typed` is sent to it.

    Raises what the agent raises (CONSOLE_BUSY, ...), HOST_UNREACHABLE; DeadlineExceededError CONSOLE_IDLE if nothing
    was typed for idle_timeout_s (0: it may be idle).
    """
    idle = IdleTimer(idle_timeout_s, lambda: call.cancel())
    call = agents.at(host).vms.Console(_inputs(vm_id, force, typed, lambda data: True, idle))
    yield from _until_idle(call, idle, _idle(vm_id, idle_timeout_s, "console", _LOG_ADVICE), host, context)


def screen(
    agents: Agents,
    vm_id: str,
    host: HostAddress,
    sent: Iterator[bytes],
    force: bool,
    idle_timeout_s: float,
    context: grpc.ServicerContext,
) -> Iterator[bytes]:
    """What the screen sends its viewer, for as long as the caller's call lasts; `sent` is what the viewer sends.

    Raises what the agent raises (CONSOLE_BUSY, ...), HOST_UNREACHABLE; DeadlineExceededError CONSOLE_IDLE if nobody
    used keyboard or mouse for idle_timeout_s (0: it may be idle): a viewer asks for pictures all the time.
    """
    idle = IdleTimer(idle_timeout_s, lambda: call.cancel())
    call = agents.at(host).vms.Screen(_inputs(vm_id, force, sent, ViewerInput().feed, idle))
    yield from _until_idle(call, idle, _idle(vm_id, idle_timeout_s, "screen", _SCREEN_ADVICE), host, context)


def screen_host(vm: Vm) -> Host:
    """The host that shows a running VM's screen.

    Raises FailedPreconditionError VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED.
    """
    host = running_host(vm)
    rules.need(Function.SCREEN, host)
    return host


def idle_timeout_s(vm: Vm) -> float:
    """After how long without input a console of this VM is closed; 0: never."""
    return settings.vms.CONSOLE_IDLE_TIMEOUT.get(settings.At(account_id=vm.account_id))


def console_log(
    agents: Agents, vm_id: str, host: HostAddress, lines: int, follow: bool, context: grpc.ServicerContext
) -> Iterator[bytes]:
    """What the guest printed, its last lines (0: all that is kept); follow: then what it prints.

    Raises what the agent raises, HOST_UNREACHABLE; FailedPreconditionError CONSOLE_LOG_MISSING if the VM has never
    started.
    """
    request = agent_pb2.ReadConsoleLogRequest(vm_id=vm_id, lines=lines, follow=follow)
    try:
        for output in _outputs(agents.at(host).vms.ReadConsoleLog(request), host, context):
            yield output.data
    except NotFoundError:  # it is defined when it starts
        raise _no_log(vm_id) from None


def log_host(vm: Vm) -> Host:
    """The host that has a VM's console log: where it runs, or ran last.

    Raises FailedPreconditionError CONSOLE_LOG_MISSING, HOST_SILENT, FUNCTION_NOT_SUPPORTED.
    """
    host_id = vm.host_id or vm.last_host_id
    if host_id is None:
        raise _no_log(vm.id)
    host = Host.get_by_id(host_id)
    if not is_up(host):
        raise silent(host, f"which has the console log of VM {vm.name}")
    rules.need(Function.CONSOLE_LOG, host)
    return host


def record_console(vm: Vm, actor: str, force: bool, kind: str = "vm.console") -> None:
    """Records that somebody opens a VM's console or screen, which is as good as standing before it."""
    message = "taken over from whoever has it" if force else ""
    events.record(kind, events.Outcome.STARTED, actor, "vm", vm.id, vm.name, message, account_id=vm.account_id)


def send_key(agents: Agents, vm: Vm, keys: str, actor: str) -> None:
    """Presses keys of a running VM's keyboard together, e.g. "ctrl-alt-del".

    Raises InvalidArgumentError UNKNOWN_KEY; FailedPreconditionError VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED.
    """
    try:
        parse_keys(keys)
    except ValueError as error:
        raise bad_field("keys", str(error), "UNKNOWN_KEY") from None
    host = running_host(vm)
    rules.need(Function.SEND_KEY, host)
    # Not the keys: they may be those of a password.
    events.record("vm.send-key", events.Outcome.STARTED, actor, "vm", vm.id, vm.name, account_id=vm.account_id)
    agents.call(address(host), lambda agent: agent.vms.SendKey, agent_pb2.SendKeyRequest(vm_id=vm.id, keys=keys))


def screenshot(agents: Agents, vm: Vm) -> bytes:
    """A picture of a running VM's screen, PNG.

    Raises FailedPreconditionError VM_STATE, HOST_SILENT or FUNCTION_NOT_SUPPORTED.
    """
    host = running_host(vm)
    rules.need(Function.SCREENSHOT, host)
    request = agent_pb2.ScreenshotRequest(vm_id=vm.id)
    return agents.call(address(host), lambda agent: agent.vms.Screenshot, request).png


def _inputs(
    vm_id: str, force: bool, sent: Iterator[bytes], is_person: Callable[[bytes], bool], idle: IdleTimer
) -> Iterator[agent_pb2.ConsoleInput]:
    """What goes to the agent. is_person: whether bytes show that somebody is there."""
    yield agent_pb2.ConsoleInput(vm_id=vm_id, force=force)
    for data in sent:
        if is_person(data):
            idle.touch()
        yield agent_pb2.ConsoleInput(data=data)


def _until_idle(
    call: _CallIterator[agent_pb2.ConsoleOutput],
    idle: IdleTimer,
    expired: DeadlineExceededError,
    host: HostAddress,
    context: grpc.ServicerContext,
) -> Iterator[bytes]:
    """What the agent sends. Raises `expired` where the timer has ended the call."""
    try:
        for output in _outputs(call, host, context):
            yield output.data
    except Exception:
        if idle.expired:
            raise expired from None
        raise
    finally:
        idle.stop()


def _outputs(
    call: _CallIterator[agent_pb2.ConsoleOutput], host: HostAddress, context: grpc.ServicerContext
) -> Iterator[agent_pb2.ConsoleOutput]:
    """What the agent sends, until the caller's call or the agent's ends."""

    def cancel() -> None:
        call.cancel()

    if not context.add_callback(cancel):  # the caller has gone already
        call.cancel()
    try:
        yield from call
    except grpc.RpcError as rpc_error:
        error = from_rpc_error(rpc_error)
        if not context.is_active():
            return
        raise (unreachable(host, error) if error.reason == "RPC" and broken(error) else error) from None


def _no_log(vm_id: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        "there is no console log: no host has this VM (start it)", "CONSOLE_LOG_MISSING", {"vm": vm_id}
    )


def _idle(vm_id: str, timeout_s: float, what: str, advice: str) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"the {what} was closed: nothing was typed for {timeout_s:.0f} s ({advice})", "CONSOLE_IDLE", {"vm": vm_id}
    )
