"""Builds the tests' programs in Go, with one cache for all.

With cgo as it comes: Debian has compiled Go's own packages so, which else is a good part of a build.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "go"
LIBRARIES = Path("/usr/share/gocode")


def build(sources: Path, program: Path, *, gopath: str | None = None) -> None:
    """gopath: where it takes its imports from; None for a module, which fetches none."""
    environment = {
        "GOCACHE": str(CACHE),
        "GOFLAGS": "-buildvcs=false",
        "GO111MODULE": "on" if gopath is None else "off",
        "GOPROXY": "off",
    }
    if gopath is not None:
        environment["GOPATH"] = gopath
    # Without what a debugger needs: linking is faster.
    command: list[str | Path] = ["go", "build", "-ldflags=-s -w", "-o", program, "."]
    subprocess.run(command, cwd=sources, env=os.environ | environment, check=True, timeout=280)
