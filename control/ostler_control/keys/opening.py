"""Which provider this control plane has, by its configuration."""

from __future__ import annotations

from pathlib import Path

from ostler_control.keys.file import FileProvider
from ostler_control.keys.providers import KeyProvider
from ostler_control.trust.state import StateDir


def open_provider(state_dir: Path) -> KeyProvider:
    """The provider `file`: systemd's credential `ostler-kek` if there is one, else `kek` in the state directory.

    Raises FailedPreconditionError (KEK_MISSING, KEK_INVALID).
    """
    path = StateDir(state_dir).kek
    return FileProvider(path, writable=path.parent == state_dir)
