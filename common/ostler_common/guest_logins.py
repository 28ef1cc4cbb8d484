"""Which users, passwords and SSH keys of a guest can be set: the agent and the control plane both check it."""

from __future__ import annotations

from collections.abc import Sequence

from ostler_common.errors import bad_field
from ostler_common.secret import Secret
from ostler_common.ssh_keys import check_ssh_keys

MAX_USER = 64
MAX_PASSWORD_BYTES = 256


def check_user(user: str) -> None:
    """Raises InvalidArgumentError INVALID_GUEST_USER."""
    # ":" and line breaks end a name in /etc/passwd, and in what `chpasswd` reads.
    if not 0 < len(user) <= MAX_USER or not user.isprintable() or ":" in user:
        raise bad_field("guest_user", f'must be 1 to {MAX_USER} printable characters without ":"', "INVALID_GUEST_USER")


def check_password(user: str, password: Secret) -> None:
    """Raises InvalidArgumentError INVALID_GUEST_USER or INVALID_GUEST_PASSWORD."""
    check_user(user)
    secret = password.reveal()
    try:
        printable = secret.decode().isprintable()
    except UnicodeDecodeError:
        printable = False
    if not 0 < len(secret) <= MAX_PASSWORD_BYTES or not printable:
        raise bad_field(
            "password", f"must be 1 to {MAX_PASSWORD_BYTES} bytes of printable UTF-8", "INVALID_GUEST_PASSWORD"
        )


def check_keys(user: str, keys: Sequence[str]) -> tuple[str, ...]:
    """The keys without surrounding space; raises InvalidArgumentError INVALID_GUEST_USER or INVALID_SSH_KEY."""
    check_user(user)
    if not keys:
        raise bad_field("ssh_keys", "give at least one public key", "INVALID_SSH_KEY")
    return check_ssh_keys(keys)
