"""A control process that kills itself: `python -m tests.drs_runner URL STATE_DIR POINT`.

It carries out what there is. POINT counts what the executor of DRS plans does (before and after each change of a row,
each launch, each look); at that one it dies by SIGKILL. 0: never.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ostler_control import database
from ostler_control.drs_plans import executor

from tests.sites import new_engine

_left = 0
_lock = threading.Lock()
POINTS = ("_change", "launch", "account", "finish", "skip", "drop")


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
    for name in POINTS:
        setattr(executor, name, _with_points(getattr(executor, name)))
    database.connect(url)
    engine = new_engine(state_dir)
    engine.start()
    print("ready", flush=True)
    sys.stdin.read()
    engine.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
