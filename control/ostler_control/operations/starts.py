"""The VMs that operations of this process are starting now: what their hosts report of that is no news."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

_VERBS = frozenset({"vm.create", "vm.start"})

_lock = threading.Lock()
_starting: Counter[str] = Counter()


@contextlib.contextmanager
def starting(verb: str, resource_id: str) -> Iterator[None]:
    """While an attempt at an operation runs."""
    if verb not in _VERBS:
        yield
        return
    with _lock:
        _starting[resource_id] += 1
    try:
        yield
    finally:
        with _lock:
            _starting[resource_id] -= 1
            if not _starting[resource_id]:
                del _starting[resource_id]


def is_starting(vm_id: str) -> bool:
    """Whether an operation of this process is starting the VM."""
    with _lock:
        return vm_id in _starting
