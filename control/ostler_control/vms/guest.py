"""Asks the guest agent of a running VM, on its host: about the guest, to set its clock, a password, SSH keys."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import guest_pb2
from ostler_common.guest_info import clean
from ostler_common.guest_logins import check_keys, check_password
from ostler_common.hypervisors import Function
from ostler_common.secret import Secret

from ostler_control import events
from ostler_control.agents import Agents, HostAddress
from ostler_control.database import session
from ostler_control.hosts.rows import address
from ostler_control.hypervisors import rules
from ostler_control.models import Vm
from ostler_control.vms.rows import running_host

DEADLINE_S = 60.0  # several questions, to each of which a guest may take some seconds


def guest_info(agents: Agents, vm: Vm) -> guest_pb2.GuestInfo:
    """What the guest says of itself, cleaned here, too: a host may have been taken over.

    Raises FailedPreconditionError VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED, and what the agent raises
    (GUEST_AGENT_MISSING, GUEST_AGENT_SILENT, GUEST_AGENT_REFUSED).
    """
    host = _host(vm)
    request = agent_pb2.ReadGuestInfoRequest(vm_id=vm.id)
    return clean(agents.call(host, lambda agent: agent.vms.ReadGuestInfo, request, DEADLINE_S))


def sync_guest_time(agents: Agents, vm: Vm, actor: str) -> None:
    """Sets the guest's clock to its host's time. Raises as `guest_info` does."""
    host = _host(vm)
    request = agent_pb2.SyncGuestTimeRequest(vm_id=vm.id)
    _record(vm, "vm.guest-time", actor)
    agents.call(host, lambda agent: agent.vms.SyncGuestTime, request, DEADLINE_S)


def set_guest_password(agents: Agents, vm: Vm, user: str, password: Secret, actor: str) -> None:
    """Sets the password of a user of the guest. It is kept nowhere.

    Raises as `guest_info` does, and InvalidArgumentError INVALID_GUEST_USER, INVALID_GUEST_PASSWORD.
    """
    check_password(user, password)
    host = _host(vm)
    request = agent_pb2.SetGuestPasswordRequest(vm_id=vm.id, guest_user=user, password=password.reveal())
    _record(vm, "vm.guest-password", actor, f"of user {user}")
    agents.call(host, lambda agent: agent.vms.SetGuestPassword, request, DEADLINE_S)


def set_guest_ssh_keys(
    agents: Agents, vm: Vm, user: str, keys: Sequence[str], actor: str, *, keep_others: bool
) -> None:
    """Replaces the keys that may log in as a user of the guest, or adds to them.

    Raises as `guest_info` does, and InvalidArgumentError INVALID_GUEST_USER, INVALID_SSH_KEY.
    """
    checked = check_keys(user, keys)
    host = _host(vm)
    request = agent_pb2.SetGuestSshKeysRequest(vm_id=vm.id, guest_user=user, ssh_keys=checked, keep_others=keep_others)
    _record(vm, "vm.guest-ssh-keys", actor, f"of user {user}")
    agents.call(host, lambda agent: agent.vms.SetGuestSshKeys, request, DEADLINE_S)


def _host(vm: Vm) -> HostAddress:
    with session():
        host = running_host(vm)
        rules.need(Function.GUEST_AGENT, host)
    return address(host)


def _record(vm: Vm, kind: str, actor: str, message: str = "") -> None:
    events.record(kind, events.Outcome.STARTED, actor, "vm", vm.id, vm.name, message, account_id=vm.account_id)
