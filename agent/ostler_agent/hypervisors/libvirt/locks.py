"""One lock per VM, which exists only while a thread holds or waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class VmLocks:
    """Serializes steps on one VM where libvirt cannot: a secret and the VM that uses it are separate objects."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._guard = threading.Lock()

    @contextmanager
    def hold(self, vm_id: str) -> Iterator[None]:
        """Holds the VM's lock. Not reentrant."""
        with self._guard:
            entry = self._entries.setdefault(vm_id, _Entry())
            entry.users += 1
        try:
            with entry.lock:
                yield
        finally:
            with self._guard:
                entry.users -= 1
                if not entry.users:
                    del self._entries[vm_id]
