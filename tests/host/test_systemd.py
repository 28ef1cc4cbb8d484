"""The units, as systemd itself judges them (it need not run), and the sample settings beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from ostler_agent.config import AgentConfig
from ostler_agent.hypervisors.libvirt.options import LibvirtOptions
from ostler_common.config import Settings, load
from ostler_control.config import ControlConfig

SYSTEMD = Path(__file__).parents[2] / "systemd"
# What each unit runs, and how exposed it may be by systemd's own measure, tenths.
UNITS = {
    "ostler-agent.service": ("ostler-agent run", 45),
    "ostler-control.service": ("ostler-control run", 15),
    "ostler-migration-gateway.service": ("ostler-agent migration-gateway", 20),
    "ostler-guardian.service": ("ostler-agent guardian", 50),
    "ostler-vlan-bridges.service": ("ostler-agent make-vlan-bridges", 20),
    "ostler-libvirt-keys.service": ("ostler-agent mount-key-directory", 60),
}

analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)


@analyze
@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_well_formed(unit: str, tmp_path: Path) -> None:
    """verify wants the program to be there: a copy of the unit gets one."""
    command, _ = UNITS[unit]
    program = tmp_path / command.split()[0]
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (SYSTEMD / unit).read_text()
    assert f"ExecStart=/usr/bin/{command}\n" in text
    (tmp_path / unit).write_text(text.replace("/usr/bin", str(tmp_path)))
    done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@analyze
@pytest.mark.parametrize("unit", UNITS)
def test_unit_exposes_little(unit: str) -> None:
    _, tenths = UNITS[unit]
    done = run("systemd-analyze", "security", "--offline=yes", f"--threshold={tenths}", SYSTEMD / unit)
    assert done.returncode == 0, done.stdout + done.stderr


def test_requests_for_vlan_bridges_are_not_limited() -> None:
    """The unit starts for each request; systemd's limit of 5 starts in 10 s would stop its path unit for good."""
    text = (SYSTEMD / "ostler-vlan-bridges.service").read_text()
    [unit, _] = text.split("[Service]")
    assert "\nStartLimitIntervalSec=0\n" in unit


def test_agent_has_no_mount_namespace() -> None:
    """An NFS pool that the agent mounts must be seen by QEMU, which runs outside."""
    text = (SYSTEMD / "ostler-agent.service").read_text()
    makes_one = (
        r"ProtectSystem|ProtectHome|ProtectKernel\w+|ProtectControlGroups|ProtectProc|ProcSubset|Private(?!Users)\w+"
        r"|(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec|Bind|BindReadOnly)Paths|TemporaryFileSystem|Root\w+|MountFlags"
    )
    assert re.findall(rf"^(?:{makes_one})=.*$", text, re.MULTILINE) == []


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="needs systemd-sysusers")
def test_user_and_directories_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    made = run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "sysusers.conf")
    assert made.returncode == 0, made.stderr
    assert "ostler:" in (tmp_path / "etc/passwd").read_text()
    made = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", SYSTEMD / "tmpfiles.conf")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "var/lib/ostler/mounts").is_dir()


def uncommented(name: str) -> str:
    return re.sub(r"^#(?=\w+ = |\[)", "", (SYSTEMD / name).read_text(), flags=re.MULTILINE)


SETTINGS: dict[str, type[Settings]] = {"agent.toml": AgentConfig, "control.toml": ControlConfig}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_sample_shows_every_key_with_its_default(name: str, tmp_path: Path) -> None:
    cls = SETTINGS[name]
    assert tomllib.loads((SYSTEMD / name).read_text()) == {}
    (tmp_path / name).write_text(uncommented(name))
    assert set(tomllib.loads(uncommented(name))) == set(cls.model_fields)
    found, default = load(cls, tmp_path / name), load(cls, None)
    if isinstance(found, AgentConfig):
        assert set(found.driver_options) == set(LibvirtOptions.model_fields)
        assert LibvirtOptions.model_validate(found.driver_options) == LibvirtOptions()
        found = found.model_copy(update={"driver_options": {}})
    assert found == default
