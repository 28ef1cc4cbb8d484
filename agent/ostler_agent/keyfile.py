"""A passphrase as a file without a name."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ostler_common.secret import Secret

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class KeyFile:
    """Holds a secret in a sealed memfd within the context.

    A child that receives `fd` in pass_fds reads the secret at `path`. The kernel frees it with the last descriptor, so
    nothing remains even if all processes are killed.
    """

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self.fd = -1

    def __enter__(self) -> KeyFile:
        self.fd = os.memfd_create("key", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(self.fd, 0o400)  # ssh refuses a private key that others may read
        os.write(self.fd, self._secret.reveal())
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)
        self.fd = -1

    @property
    def path(self) -> Path:
        """The path at which a child with the descriptor reads the secret."""
        return Path(f"/proc/self/fd/{self.fd}")

    @property
    def outer_path(self) -> Path:
        """The path at which a program of this user that closes inherited descriptors, as ssh does, reads the secret."""
        return Path(f"/proc/{os.getpid()}/fd/{self.fd}")
