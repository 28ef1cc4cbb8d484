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


def test_ssh_keys_come_from_files(control: Control, environment: dict[str, str], tmp_path: Path) -> None:
    keys = [f"ssh-ed25519 {'A' * 68} anna", f"ssh-ed25519 {'B' * 68} ben"]
    files = []
    for number, key in enumerate(keys):
        files.append(tmp_path / f"{number}.pub")
        files[-1].write_text(f"# mine\n{key}\n")
    argv = [*GUEST, "set-ssh-keys", "web-1", "root"]
    options = [word for file in files for word in ("--key-file", str(file))]
    subprocess.run([*argv, *options, "--keep-others"], capture_output=True, env=environment, timeout=30, check=True)
    request = vm_pb2.SetGuestSshKeysRequest(vm="web-1", guest_user="root", ssh_keys=keys, keep_others=True)
    assert control.asked == [request]
    none = subprocess.run(argv, capture_output=True, env=environment, timeout=30)
    assert (none.returncode, b"--key-file" in none.stderr) == (2, True)
