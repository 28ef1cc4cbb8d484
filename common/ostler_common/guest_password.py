"""Which users and passwords of a guest can be set: the agent and the control plane both check it."""

from __future__ import annotations

from ostler_common.errors import bad_field
from ostler_common.secret import Secret

MAX_USER = 64
MAX_PASSWORD_BYTES = 256


def check(user: str, password: Secret) -> None:
    """Raises InvalidArgumentError INVALID_GUEST_USER or INVALID_GUEST_PASSWORD."""
    # ":" and line breaks end a name in /etc/passwd, and in what `chpasswd` reads.
    if not 0 < len(user) <= MAX_USER or not user.isprintable() or ":" in user:
        raise bad_field("guest_user", f'must be 1 to {MAX_USER} printable characters without ":"', "INVALID_GUEST_USER")
    secret = password.reveal()
    try:
        printable = secret.decode().isprintable()
    except UnicodeDecodeError:
        printable = False
    if not 0 < len(secret) <= MAX_PASSWORD_BYTES or not printable:
        raise bad_field(
            "password", f"must be 1 to {MAX_PASSWORD_BYTES} bytes of printable UTF-8", "INVALID_GUEST_PASSWORD"
        )
