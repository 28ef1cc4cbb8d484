"""Builds examples/go with Debian's Go packages, once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import google.rpc
import grpc_tools

from tests import go_programs
from tests.go_programs import LIBRARIES
from tests.needs import need

TOP = Path(__file__).parents[3]
SOURCES = TOP / "examples" / "go"
CACHE = TOP / ".cache" / "examples-go"
NEEDED = ("google.golang.org/grpc", "google.golang.org/genproto", "google.golang.org/protobuf")


def missing() -> str | None:
    """Why it cannot be built on this machine; None when it can."""
    programs = [name for name in ("go", "protoc-gen-go", "protoc-gen-go-grpc") if not shutil.which(name)]
    absent = programs + [name for name in NEEDED if not (LIBRARIES / "src" / name).is_dir()]
    return f"needs {', '.join(absent)} to build the Go example (make setup)" if absent else None


def program() -> Path:
    """The built program, kept under the hash of its sources and of the protos; a build takes half a minute.

    Skips the test where it cannot be built.
    """
    need(missing())
    digest = hashlib.sha256()
    for source in (*sorted(SOURCES.iterdir()), *sorted((TOP / "protos").rglob("*.proto"))):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    built = CACHE / digest.hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            _build(built)
    return built


def _build(built: Path) -> None:
    google_protos = CACHE / "protos"
    installed = Path(next(iter(google.rpc.__path__))).parent
    for package in ("api", "longrunning", "rpc"):
        shutil.copytree(installed / package, google_protos / "google" / package, dirs_exist_ok=True)
    # googleapis-common-protos ships this file under another name than its importers use.
    longrunning = google_protos / "google" / "longrunning"
    shutil.copy(longrunning / "operations_proto.proto", longrunning / "operations.proto")
    # Debian's protoc does not know all options that the protos use.
    protoc = f"{sys.executable} -m grpc_tools.protoc -I {Path(grpc_tools.__path__[0]) / '_proto'}"
    shutil.rmtree(CACHE / "src", ignore_errors=True)
    environment = os.environ | {"PROTOC": protoc, "GOOGLE_PROTOS": str(google_protos)}
    subprocess.run([SOURCES / "stubs.sh", CACHE / "src"], env=environment, check=True, timeout=60)
    new = CACHE / "new"
    go_programs.build(SOURCES, new, gopath=f"{CACHE}:{LIBRARIES}")
    new.rename(built)
