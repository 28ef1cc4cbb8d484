"""A qemu-img for tests that encrypts images without measuring the CPU first.

The real one derives keys for more than two seconds of CPU time for each image that it encrypts, to learn how many
rounds take the time that it was asked for. That was most of what tests of storage took. This is the real one,
too, with a clock that goes fast: it takes the CPU for a slow one at once, and the keys get few rounds. All else is the
same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_suffix(".c")
_CACHE = Path(__file__).parents[1] / ".cache" / "quick-keys"
# Where this file is, qemu-img measures: for tests that need a creation to take its time.
MEASURE = Path("/run/ostler-qemu-img-measures")
_SCRIPT = """\
#!/bin/sh
[ -e {measure} ] || export LD_PRELOAD={library}
exec {real} "$@"
"""


def use(patch: pytest.MonkeyPatch) -> None:
    """Puts it before the real one, for this process and its children; where it cannot be built, the real one stays."""
    if shutil.which("gcc") and (real := shutil.which("qemu-img")):
        patch.setenv("PATH", str(_built(real)), prepend=os.pathsep)


def in_use() -> list[str]:
    """The directory that is to come first in the PATH of processes with an environment of their own; or nothing."""
    path = os.environ.get("PATH", "").split(os.pathsep)
    return [one for one in path if Path(one).parent == _CACHE]


def _built(real: str) -> Path:
    digest = hashlib.sha256(b"\0".join([_SOURCE.read_bytes(), _SCRIPT.encode(), real.encode()])).hexdigest()[:16]
    directory = _CACHE / digest
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            new = _CACHE / "new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
            subprocess.run(["gcc", *flags, "-o", new / "clock.so", _SOURCE], check=True, timeout=60)
            script = new / "qemu-img"
            script.write_text(_SCRIPT.format(measure=MEASURE, library=directory / "clock.so", real=real))
            script.chmod(0o755)
            new.rename(directory)
    return directory
