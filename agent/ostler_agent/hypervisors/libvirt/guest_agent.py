"""Talks to the guest agent of running VMs, through libvirt.

libvirt runs these commands beside those of QEMU's monitor: a guest agent that hangs delays nobody but its caller, and
that for AGENT_TIMEOUT_S.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from xml.etree import ElementTree

import libvirt
import libvirt_qemu
from ostler_common.errors import FailedPreconditionError, UnavailableError
from ostler_common.guest_info import MAX_ITEMS, clean_text
from ostler_common.secret import Secret

from ostler_agent.hypervisors.guest import GuestFileSystem, GuestInfo, GuestInterface, GuestUser
from ostler_agent.hypervisors.libvirt import domains
from ostler_agent.hypervisors.libvirt.errors import is_code, lost_connection, to_ostler_error, translated
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import guest_channel

AGENT_TIMEOUT_S = 5
Answer = Mapping[str, str | int]


def info(session: Session, vm_id: str) -> GuestInfo:
    """See `guest.GuestAgent`."""
    with asking(session, vm_id, "asking it about the guest") as domain:
        version = _version(domain)
        return from_answer(domain.guestInfo(0), version, domain.getTime()["seconds"])


def set_time(session: Session, vm_id: str) -> None:
    """Sets the guest's clock to the host's."""
    with asking(session, vm_id, "setting the guest's time") as domain:
        seconds, nanos = divmod(time.time_ns(), 10**9)
        domain.setTime({"seconds": seconds, "nseconds": nanos})


def set_password(session: Session, vm_id: str, user: str, password: Secret) -> None:
    """Sets a password. A guest may repeat it in its error, so that nothing of the error is kept."""
    with asking(session, vm_id, f"setting the password of user {user}", quote=False) as domain:
        domain.setUserPassword(user, password.reveal().decode())


def set_ssh_keys(session: Session, vm_id: str, user: str, keys: Sequence[str], *, keep_others: bool) -> None:
    """Sets or adds to a user's keys."""
    with asking(session, vm_id, f"setting the SSH keys of user {user}") as domain:
        flags = libvirt.VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_APPEND if keep_others else 0
        domain.authorizedSSHKeysSet(user, list(keys), flags)


def shut_down(session: Session, vm_id: str) -> None:
    """Asks the guest to shut down."""
    with asking(session, vm_id, "shutting the guest down") as domain:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)


def from_answer(answer: Answer, version: str, time_s: int) -> GuestInfo:
    """What libvirt made of the guest's answer: flat names, such as "fs.0.name"."""
    return GuestInfo(
        agent_version=version,
        host_name=_text(answer, "hostname"),
        os_name=_text(answer, "os.pretty-name") or _text(answer, "os.name"),
        os_version=_text(answer, "os.version") or _text(answer, "os.version-id"),
        kernel=_text(answer, "os.kernel-release"),
        time_zone=_text(answer, "timezone.name"),
        time_s=time_s,
        file_systems=tuple(_file_system(answer, f"fs.{n}") for n in _range(answer, "fs.count")),
        users=tuple(_user(answer, f"user.{n}") for n in _range(answer, "user.count")),
        interfaces=tuple(_interface(answer, f"if.{n}") for n in _range(answer, "if.count")),
    )


def _file_system(answer: Answer, name: str) -> GuestFileSystem:
    return GuestFileSystem(
        _text(answer, f"{name}.mountpoint"),
        _text(answer, f"{name}.fstype"),
        _text(answer, f"{name}.name"),
        _number(answer, f"{name}.total-bytes"),
        _number(answer, f"{name}.used-bytes"),
    )


def _user(answer: Answer, name: str) -> GuestUser:
    login_ms = _number(answer, f"{name}.login-time")
    return GuestUser(_text(answer, f"{name}.name"), _text(answer, f"{name}.domain"), login_ms // 1000)


def _interface(answer: Answer, name: str) -> GuestInterface:
    addresses = (
        f"{_text(answer, f'{name}.addr.{n}.addr')}/{_number(answer, f'{name}.addr.{n}.prefix')}"
        for n in _range(answer, f"{name}.addr.count")
    )
    return GuestInterface(_text(answer, f"{name}.name"), _text(answer, f"{name}.hwaddr"), tuple(addresses))


def _text(answer: Answer, name: str) -> str:
    return clean_text(str(answer.get(name) or ""))


def _number(answer: Answer, name: str) -> int:
    value = answer.get(name, 0)
    return min(value, 2**63 - 1) if isinstance(value, int) else 0


def _range(answer: Answer, name: str) -> range:
    return range(min(_number(answer, name), MAX_ITEMS))


def _version(domain: libvirt.virDomain) -> str:
    """The agent's version. libvirt has no call of its own for it, and so marks the domain as tainted in its log."""
    text = libvirt_qemu.qemuAgentCommand(domain, json.dumps({"execute": "guest-info"}), AGENT_TIMEOUT_S, 0)
    try:
        return clean_text(str(json.loads(text)["return"]["version"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


@contextmanager
def asking(
    session: Session, vm_id: str, what: str, *, quote: bool = True, timeout_s: int = AGENT_TIMEOUT_S
) -> Iterator[libvirt.virDomain]:
    """A running VM's domain, whose guest agent is connected.

    quote: whether errors have what the guest said; timeout_s: for each of its answers.
    """
    domain = domains.get_active(session, vm_id)
    with translated(f"inspecting VM {vm_id}"):
        root = ElementTree.fromstring(domain.XMLDesc())
        if not guest_channel.has_agent(root):
            raise _missing(vm_id, guest_channel.has_channel(root))
        domain.agentSetResponseTimeout(timeout_s)
    try:
        yield domain
    except libvirt.libvirtError as error:
        if lost_connection(error) or is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            raise to_ostler_error(error, f"VM {vm_id}: {what}") from None
        if is_code(error, libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED):
            raise UnavailableError(
                f"the guest agent of VM {vm_id} does not answer ({what}); restart it in the guest",
                "GUEST_AGENT_SILENT",
                {"vm": vm_id},
            ) from None
        said = f": {clean_text(error.get_error_message())}" if quote else ""
        raise FailedPreconditionError(
            f"the guest agent of VM {vm_id} refused ({what}){said}", "GUEST_AGENT_REFUSED", {"vm": vm_id}
        ) from None


def _missing(vm_id: str, has_channel: bool) -> FailedPreconditionError:
    advice = (
        "install qemu-guest-agent in the guest, and start it"
        if has_channel
        else "stop and start the VM, which gives it a channel; then install qemu-guest-agent in the guest"
    )
    return FailedPreconditionError(
        f"no guest agent is connected in VM {vm_id} ({advice})", "GUEST_AGENT_MISSING", {"vm": vm_id}
    )
