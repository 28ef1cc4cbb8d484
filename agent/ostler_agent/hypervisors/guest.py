"""The optional part of a driver that talks to the guest agent inside a VM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ostler_common.secret import Secret


@dataclass(frozen=True)
class GuestFileSystem:
    """A mounted file system, as the guest says."""

    mount_point: str
    type: str
    device: str
    total_bytes: int = 0
    used_bytes: int = 0


@dataclass(frozen=True)
class GuestUser:
    """Somebody who is logged in, as the guest says. login_time_s: since 1970."""

    name: str
    domain: str = ""
    login_time_s: int = 0


@dataclass(frozen=True)
class GuestInterface:
    """A network interface, as the guest says. addresses: with prefixes."""

    name: str
    mac: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuestInfo:
    """What a guest says of itself. time_s: of its clock, since 1970; what it does not say is empty or 0."""

    agent_version: str = ""
    host_name: str = ""
    os_name: str = ""
    os_version: str = ""
    kernel: str = ""
    time_zone: str = ""
    time_s: int = 0
    file_systems: tuple[GuestFileSystem, ...] = ()
    users: tuple[GuestUser, ...] = ()
    interfaces: tuple[GuestInterface, ...] = ()


@runtime_checkable
class GuestAgent(Protocol):
    """Optional part of a driver: `Function.GUEST_AGENT`.

    Each call ends within seconds, also when the guest agent hangs, and holds no other call to the VM. The guest can say
    anything: the agent cleans what it says. All raise NotFoundError VM_NOT_FOUND; FailedPreconditionError
    VM_NOT_RUNNING, GUEST_AGENT_MISSING (none is connected), GUEST_AGENT_REFUSED; UnavailableError GUEST_AGENT_SILENT.
    """

    def guest_info(self, vm_id: str) -> GuestInfo:
        """Asks the guest about itself."""

    def set_guest_time(self, vm_id: str) -> None:
        """Sets the guest's clock to the host's time."""

    def set_guest_password(self, vm_id: str, user: str, password: Secret) -> None:
        """Sets the password of a user of the guest. The password is in no error, log or argument."""

    def set_guest_ssh_keys(self, vm_id: str, user: str, keys: Sequence[str], *, keep_others: bool) -> None:
        """Sets the public keys that may log in as a user of the guest, each a line of authorized_keys.

        keep_others: whether those that it has stay.
        """

    def shut_down_guest(self, vm_id: str) -> None:
        """Asks the guest to shut down, and returns before it has."""
