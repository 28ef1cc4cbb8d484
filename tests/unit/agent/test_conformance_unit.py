"""`driver check --as-unit`: what it takes from the agent's unit."""

from pathlib import Path

from ostler_agent.conformance import unit

UNIT = Path(__file__).parents[3] / "systemd" / "ostler-agent.service"
DROP_IN = """
# /etc/systemd/system/ostler-agent.service.d/own.conf
[Service]
KillMode=process
MemorySwapMax=infinity
SystemCallFilter=seccomp \\
  bpf
"""


def test_the_sandbox_is_the_units_with_its_drop_ins() -> None:
    settings = unit.service_settings(UNIT.read_text() + DROP_IN)
    sandbox = unit.sandbox(settings)
    assert ("NoNewPrivileges", "yes") in sandbox
    assert ("DevicePolicy", "closed") in sandbox
    assert [value for key, value in sandbox if key == "MemorySwapMax"] == ["0", "infinity"]
    assert ("SystemCallFilter", "seccomp    bpf") in sandbox
    assert not {key for key, _ in sandbox} & {"ExecStart", "Type", "Restart", "WatchdogSec", "KillMode", "Description"}


def test_kill_mode_is_the_last_one() -> None:
    assert unit.kill_mode(unit.service_settings(UNIT.read_text())) == "control-group"
    assert unit.kill_mode(unit.service_settings(UNIT.read_text() + DROP_IN)) == "process"


def test_the_command_runs_in_a_transient_unit() -> None:
    argv = unit.transient_command([("UMask", "0077"), ("Type", "notify")], ["ostler-agent", "driver", "check", "mine"])
    assert argv[:5] == ["systemd-run", "--quiet", "--pipe", "--wait", "--collect"]
    assert argv[5:] == ["--property=UMask=0077", "--", "ostler-agent", "driver", "check", "mine"]
