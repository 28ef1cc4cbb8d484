"""The example driver programs, by the driver `executable`, against the conformance suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import go_programs
from tests.host.conftest import need
from tests.lab.host import environment

pytestmark = pytest.mark.host

EXAMPLES = Path(__file__).parents[2] / "examples" / "drivers"


def check(program: Path, scratch: Path, *options: str) -> dict[str, tuple[str, str]]:
    """Outcome and detail by check."""
    argv = [sys.executable, "-m", "ostler_agent.main", "driver", "check", "executable", "-o", "json"]
    argv += ["--option", f"command={program}", "--scratch", str(scratch), *options]
    env = {**environment(), "OSTLER_AGENT_STATE_DIR": str(scratch / "no-agent")}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=240, check=False)
    assert done.returncode in (0, 1), done.stderr
    return {result["check"]: (result["outcome"], result["detail"]) for result in json.loads(done.stdout)}


def failures(outcome: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: detail for name, (result, detail) in outcome.items() if result == "failed"}


@pytest.fixture(scope="module")
def go_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("go", "qemu-img")
    program = tmp_path_factory.mktemp("go") / "ostler-driver"
    go_programs.build(EXAMPLES / "go", program)
    return program


def test_the_program_in_go_keeps_the_contract(go_driver: Path, tmp_path: Path) -> None:
    outcome = check(go_driver, tmp_path)
    assert not failures(outcome)
    passed = {name for name, (result, _) in outcome.items() if result == "ok"}
    assert {"vm.leftovers", "vm.killed", "console.one-holder", "restart.close", "restart.in-start"} <= passed


@pytest.mark.parametrize("pattern", ["statement.*", "vm.power-off", "vm.one-writer-each", "restart.running"])
def test_the_program_in_shell_keeps_the_contract(tmp_path: Path, pattern: str) -> None:
    need("jq", "qemu-system-x86_64", "qemu-img")
    outcome = check(EXAMPLES / "shell" / "ostler-driver.sh", tmp_path, "--only", pattern)
    assert not failures(outcome)
    assert "ok" in {result for result, _ in outcome.values()}
