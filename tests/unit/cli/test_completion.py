"""Completion: commands without a call, names by asking, and silence when nobody answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler.control.v1 import vm_pb2

from tests.fakes.control import Control
from tests.unit.cli.completions import complete
from tests.unit.cli.conftest import Ostler


def test_commands_and_options(profile: Path) -> None:
    assert complete(profile, "ostler v") == ["vm", "volume"]
    assert complete(profile, "ostler vm s") == [
        "show",
        "set-firmware",
        "start",
        "stop",
        "send-key",
        "screenshot",
        "snapshot",
    ]
    assert complete(profile, "ostler vm create --te") == ["--template"]
    assert complete(profile, "ostler vm list --state st") == ["stopped", "starting", "stopping"]


def test_names(control: Control, profile: Path) -> None:
    control.vms["db-1"] = vm_pb2.Vm(name="db-1")
    assert complete(profile, "ostler vm show w") == ["web-1"]
    assert complete(profile, "ostler volume list --vm ") == ["web-1", "db-1"]


def test_silence_without_a_profile(tmp_path: Path) -> None:
    assert complete(tmp_path / "absent.toml", "ostler vm show w") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_call_ostler(ostler: Ostler, shell: str) -> None:
    result = ostler("completion", shell)
    assert result.exit_code == 0
    assert f"_OSTLER_COMPLETE={shell}_complete" in result.stdout
