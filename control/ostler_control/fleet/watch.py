"""One host as the watcher's loop knows it: its connection, its state, and the VMs that it has reported."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import grpc
from ostler.types.v1 import vm_pb2

from ostler_control.agents import reports
from ostler_control.agents.looks import look
from ostler_control.agents.power_states import power_state
from ostler_control.fleet.reconcile import HostView, PauseReason, Seen
from ostler_control.fleet.store import WatchedHost
from ostler_control.models import HostState

_PAUSE_REASONS: dict[int, PauseReason] = {
    vm_pb2.PAUSE_REASON_NO_SPACE: PauseReason.NO_SPACE,
    vm_pb2.PAUSE_REASON_IO_ERROR: PauseReason.IO_ERROR,
}


@dataclass(eq=False)
class Watch:
    """A host being watched. Touched by the loop only."""

    host: WatchedHost
    task: asyncio.Task[None] | None = None
    channel: grpc.aio.Channel | None = None
    state: HostState = HostState.CONNECTING
    reason: str = ""
    set_count: int = 0  # how often the state was set
    heard: bool = False
    silent: bool = False
    vms: dict[str, Seen] = field(default_factory=dict)
    complaints: dict[str, str] = field(default_factory=dict)
    try_now: asyncio.Event = field(default_factory=asyncio.Event)
    _view: HostView | None = None

    def view(self) -> HostView:
        """The host as it is now, kept until `changed`: all hosts' views are asked for several times per second."""
        if self._view is None:
            self._view = HostView(self.host.host_id, self.host.name, self.heard, self.silent, dict(self.vms))
        return self._view

    def changed(self) -> None:
        """To be called when what the view tells has changed."""
        self._view = None


def is_there(vm: vm_pb2.VmInfo) -> bool:
    """Whether the host has the VM."""
    return vm.power_state != vm_pb2.POWER_STATE_ABSENT


def seen(vm: vm_pb2.VmInfo, detail: str = "") -> Seen:
    """What a host reports of a VM. detail: of the event that told it."""
    reports.clean(vm)
    return Seen(
        vm.vm_id,
        vm.name,
        power_state(vm.power_state),
        vm.cpus,
        vm.memory_bytes,
        vm.managed,
        detail,
        _PAUSE_REASONS.get(vm.pause_reason),
        look(vm),
    )
