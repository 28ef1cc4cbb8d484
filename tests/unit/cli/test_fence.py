"""`ostler fence add`: what it asks of the control plane."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from ostler.control.v1 import ha_pb2 as pb
from ostler_control.cli.app import App
from ostler_control.cli.commands.fence import command


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["--agent", "ipmi"], {}),
        (["--agent", "ipmi", "--cipher", "3"], {"cipher": "3"}),
        (["--agent", "redfish", "--plug", "1", "--insecure"], {"plug": "1", "insecure": "true"}),
    ],
)
def test_a_device_is_added_with_the_options_of_its_agent(
    tmp_path: Path, given: list[str], options: dict[str, str]
) -> None:
    password = tmp_path / "password"
    password.write_text("of the bmc\n")
    asked: list[pb.AddFenceDeviceRequest] = []

    def add(request: pb.AddFenceDeviceRequest) -> pb.FenceDevice:
        asked.append(request)
        return pb.FenceDevice(host_name=request.host, agent=request.agent)

    app = App(None)
    app.__dict__["client"] = SimpleNamespace(ha=SimpleNamespace(AddFenceDevice=add))
    argv = ["add", "h1", "--address", "bmc", "--user", "ostler", "--password-file", str(password), *given]
    done = CliRunner().invoke(command, argv, obj=app)
    assert done.exit_code == 0, done.output
    [request] = asked
    assert (request.agent, dict(request.options), request.password) == (given[1], options, b"of the bmc")
