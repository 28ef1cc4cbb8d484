"""`ostler vm guest`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ostler.control.v1 import vm_pb2
from ostler.types.v1.guest_pb2 import GuestInfo

from tests.fakes.control import Control
from tests.unit.cli.conftest import PROGRAM

GUEST = [*PROGRAM, "vm", "guest"]


def test_what_a_guest_says_is_shown(control: Control, environment: dict[str, str]) -> None:
    control.guest = GuestInfo(
        host_name="web",
        os_name="Debian 12",
        file_systems=[GuestInfo.FileSystem(mount_point="/", type="ext4", device="vda1", total_bytes=1 << 30)],
    )
    argv = [*GUEST, "info", "web-1"]
    shown = subprocess.run(argv, capture_output=True, env=environment, timeout=30, check=True, text=True).stdout
    assert "Debian 12" in shown
    assert "ext4" in shown
    data = subprocess.run([*argv, "-o", "json"], capture_output=True, env=environment, timeout=30, check=True).stdout
    assert json.loads(data)["host_name"] == "web"
    assert control.asked == [vm_pb2.ReadGuestInfoRequest(vm="web-1")] * 2


def test_the_clock_is_set(control: Control, environment: dict[str, str]) -> None:
    subprocess.run([*GUEST, "sync-time", "web-1"], capture_output=True, env=environment, timeout=30, check=True)
    assert control.asked == [vm_pb2.SyncGuestTimeRequest(vm="web-1")]


def test_a_password_comes_from_a_file_or_standard_input(
    control: Control, environment: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse\nignored\n")
    argv = [*GUEST, "set-password", "web-1", "root"]
    for path in (str(file), "-"):
        done = subprocess.run(
            [*argv, "--password-file", path],
            input=b"correct horse\n",
            capture_output=True,
            env=environment,
            timeout=30,
            check=True,
        )
        assert b"horse" not in done.stdout + done.stderr
    request = vm_pb2.SetGuestPasswordRequest(vm="web-1", guest_user="root", password=b"correct horse")
    assert control.asked == [request] * 2
    nobody = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=30)
    assert nobody.returncode == 2
    assert b"add --password-file" in nobody.stderr
