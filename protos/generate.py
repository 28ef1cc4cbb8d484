"""Builds the Python stubs in common/ostler from protos/ostler (`make protos`, and the hook of every package build)."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:  # hatchling is there in a package build only
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parent.parent


def generate(target: Path) -> None:
    """Writes the package `ostler` with messages, services and typed stubs under the directory `target`."""
    import google.rpc as google_rpc
    import grpc_tools

    protos = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    google = Path(next(iter(google_rpc.__path__))).parent
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as extra:
        # googleapis-common-protos ships this file under another name than its importers use.
        longrunning = Path(extra, "google", "longrunning")
        longrunning.mkdir(parents=True)
        shutil.copy(google / "longrunning" / "operations_proto.proto", longrunning / "operations.proto")
        includes = [ROOT / "protos", Path(extra), Path(grpc_tools.__path__[0]) / "_proto", google.parent]
        outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        outputs += ["--mypy_opt=quiet", "--mypy_grpc_opt=quiet"]
        command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes), *outputs, *protos]
        # protoc-gen-mypy lives beside the interpreter, or where a package build has put it.
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        environment = {"PATH": path, "PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
        subprocess.run(command, check=True, env=environment)
    for directory in [target / "ostler", *(target / "ostler").rglob("*/")]:
        if directory.is_dir() and directory.name != "__pycache__":
            (directory / "__init__.py").touch()
    (target / "ostler" / "py.typed").touch()


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc,valid-type]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(ROOT / "common")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "common")
