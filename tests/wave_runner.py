"""A control process that kills itself: `python -m tests.wave_runner URL STATE_DIR POINT`.

It carries out what there is. POINT counts what the executor of import plans does (before and after each change of a
row, each launch, each check); at that one it dies by SIGKILL. 0: never.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
from ostler_control import database
from ostler_control.imports.waves import begin, check, executor, store
from ostler_control.operations import engine as engine_module
from ostler_control.operations import replicas

from tests.sites import new_engine

_left = 0
_lock = threading.Lock()
POINTS: tuple[tuple[ModuleType, str], ...] = (
    (store, "change_vm"),
    (store, "set_state"),
    (begin, "record_import"),
    (begin, "launch"),
    (check, "check_all"),
    (check, "refuse"),
    (executor, "account"),
    (executor, "conclude"),
)


def _point() -> None:
    global _left
    with _lock:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _with_points(body: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _point()
        found = body(*args, **kwargs)
        _point()
        return found

    return wrapped


def main(url: str, state_dir: Path, point: int) -> None:
    global _left
    _left = point
    replicas.SILENCE_S = 1.0
    engine_module._TICKS_PER_SWEEP = 1
    executor.TICK_S, executor.TRY_AGAIN_S = 0.1, 0.5
    for module, name in POINTS:
        setattr(module, name, _with_points(getattr(module, name)))
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for "ready"
    database.connect(url)
    engine = new_engine(url, state_dir)
    engine.start()
    print("ready", flush=True)
    sys.stdin.read()
    engine.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
