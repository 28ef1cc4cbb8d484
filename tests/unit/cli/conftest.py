"""The command line against a control plane of canned answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result
from ostler.control.v1 import vm_pb2
from ostler.types.v1 import vm_pb2 as types
from ostler_control.cli.main import root

from tests.fakes.control import Control, at, serving

Ostler = Callable[..., Result]
PROGRAM = [sys.executable, "-c", "from ostler_control.cli.main import main; main()"]


@pytest.fixture(scope="module")
def canned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Control, Path]]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the server's log is not the command's output
    with serving(tmp_path_factory.mktemp("control")) as running:
        yield running
    structlog.reset_defaults()


@pytest.fixture
def profile(canned: tuple[Control, Path]) -> Path:
    return canned[1]


@pytest.fixture
def control(canned: tuple[Control, Path]) -> Control:
    """The control plane as new: one VM."""
    control = canned[0]
    control.__init__(control.issuer)  # type: ignore[misc]  # all of it as new
    control.vms["web-1"] = vm_pb2.Vm(
        id="9d1b2c64-1f7a-4a53-8f3e-0a2d5b9c7e11",
        name="web-1",
        account_name="research",
        state=vm_pb2.Vm.RUNNING,
        power_state=types.POWER_STATE_RUNNING,
        service_offering_name="small",
        cpus=2,
        memory_bytes=4 << 30,
        firmware=types.FIRMWARE_UEFI,
        template_name="debian-13",
        host_name="h2",
        cluster_name="web",
        volumes=[
            vm_pb2.VmVolume(
                volume_id="5a",
                volume_name="web-1-root",
                slot=0,
                size_bytes=10 << 30,
                encrypted=True,
                pool_name="shared",
            ),
            vm_pb2.VmVolume(volume_id="5b", volume_name="data-1", slot=1, size_bytes=1536 << 20, pool_name="shared"),
        ],
        nics=[vm_pb2.VmNic(mac="52:54:00:12:34:56", network="br0")],
        create_time=at(0),
        state_time=at(60),
    )
    return control


@pytest.fixture
def environment(profile: Path) -> dict[str, str]:
    """For `ostler` as a process of its own."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OSTLER_PROFILE": str(profile), "TERM": "xterm"}


@pytest.fixture
def ostler(profile: Path) -> Ostler:
    """Runs `ostler` with these arguments."""

    def run(*arguments: str, input: str | None = None) -> Result:
        runner = CliRunner(env={"OSTLER_PROFILE": str(profile), "TZ": "UTC", "COLUMNS": "80", "NO_COLOR": "1"})
        return runner.invoke(root, arguments, input=input, prog_name="ostler")

    return run
