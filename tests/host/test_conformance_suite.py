"""The conformance suite itself: a correct driver passes, and each broken one is caught by the check for its rule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.drivers.liars import LIARS
from tests.host.conftest import need
from tests.lab.host import environment

pytestmark = pytest.mark.host


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    findings: dict[str, tuple[str, str]]  # by check: outcome and detail
    runs: int
    stderr: str


class Suite:
    """Runs `ostler-agent driver check` on the drivers of tests/drivers, as if their package were installed."""

    def __init__(self, directory: Path) -> None:
        need("qemu-img")
        info = directory / "site" / "liars-1.dist-info"
        info.mkdir(parents=True)
        names = ["sound", "sound-backup", *LIARS]
        points = [f"{name} = tests.drivers.liars:DRIVERS.{name.replace('-', '_')}" for name in names]
        (info / "entry_points.txt").write_text("\n".join(["[ostler.hypervisors]", *points]))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: liars\nVersion: 1\n")
        self._scratch = directory
        self._environment = environment()
        paths = (str(directory / "site"), self._environment.get("PYTHONPATH", ""), *sys.path)
        self._environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._environment["OSTLER_AGENT_STATE_DIR"] = str(directory / "no-agent")

    def check(self, name: str, *options: str) -> Outcome:
        argv = [sys.executable, "-m", "ostler_agent.main", "driver", "check", name, "-o", "json", *options]
        argv += ["--scratch", str(self._scratch)]
        done = subprocess.run(argv, capture_output=True, text=True, env=self._environment, timeout=120, check=False)
        results = json.loads(done.stdout or "[]")
        findings = {result["check"]: (result["outcome"], result["detail"]) for result in results}
        return Outcome(done.returncode, findings, len(results), done.stderr)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite(tmp_path_factory.mktemp("suite"))


def test_a_correct_driver_passes(suite: Suite) -> None:
    outcome = suite.check("sound")
    failed = {check: detail for check, (result, detail) in outcome.findings.items() if result == "failed"}
    assert not failed, outcome.stderr
    assert outcome.exit_code == 0
    required = {"statement.", "vm.", "console.", "restart."}
    skipped = {check for check, (result, _) in outcome.findings.items() if result == "skipped"}
    assert {check for check in skipped if check.startswith(tuple(required))} == {"restart.in-detach", "restart.mirror"}


def test_a_correct_driver_with_backups_passes(suite: Suite) -> None:
    for checks in ("*-backup.*", "statement.*"):
        outcome = suite.check("sound-backup", "--only", checks)
        assert {result for result, _ in outcome.findings.values()} == {"ok"}, outcome.findings


@pytest.fixture(scope="module")
def outcomes(suite: Suite) -> dict[str, Outcome]:
    """The outcome of the one check for each broken driver; several at a time, because they mostly wait."""
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda name: suite.check(name, "--only", LIARS[name].check), LIARS)
        return dict(zip(LIARS, found, strict=True))


@pytest.mark.parametrize("name", LIARS)
def test_a_broken_driver_is_caught(outcomes: dict[str, Outcome], name: str) -> None:
    liar, outcome = LIARS[name], outcomes[name]
    result, detail = outcome.findings[liar.check]
    assert result == "failed"
    assert liar.finding in detail
    assert outcome.exit_code == 1


def test_a_failed_cleanup_is_reported_once_and_does_not_hide_the_finding(suite: Suite) -> None:
    outcome = suite.check("cannot-clean-up", "--only", "vm.[su]*")
    assert "must be reported as" in outcome.findings["vm.start"][1]
    assert "cleaning up failed: STUCK: it will not stop" in outcome.findings["vm.start"][1]
    assert outcome.findings["vm.unknown"] == ("ok", "")


def test_nothing_is_left_of_a_driver_that_leaks_processes(suite: Suite) -> None:
    def leaked() -> set[str]:
        return set(subprocess.run(["pgrep", "-f", "time.sleep.60."], capture_output=True, text=True).stdout.split())

    before = leaked()
    suite.check("leaks-process", "--only", "vm.start")
    assert leaked() <= before


def test_no_check_that_matches_is_wrong_usage(suite: Suite) -> None:
    outcome = suite.check("sound", "--only", "vm.strat")
    assert outcome.exit_code == 2
    assert "no check matches" in outcome.stderr


def test_checks_are_repeated(suite: Suite) -> None:
    assert suite.check("sound", "--only", "vm.unknown", "--repeat", "3").runs == 3
