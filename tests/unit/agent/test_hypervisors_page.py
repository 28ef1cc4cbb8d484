"""docs/hypervisors.md: its skeleton is a driver, and its links lead somewhere."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from ostler_agent.conformance.bench import Bench, Setup
from ostler_agent.conformance.matrix import support_matrix
from ostler_agent.conformance.results import Outcome
from ostler_agent.conformance.suite import run_checks
from ostler_agent.hypervisors import registry
from ostler_agent.hypervisors.base import Hypervisor
from ostler_agent.hypervisors.driver import DriverContext
from ostler_nspawn_driver import factory as nspawn_driver
from ostler_qemu_driver import factory as qemu_driver

PAGE = Path(__file__).parents[3] / "docs" / "hypervisors.md"


@pytest.fixture
def skeleton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The skeleton as an installed package."""
    source = re.search(r"<!-- skeleton -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert source
    module = types.ModuleType("my_driver")
    monkeypatch.setitem(sys.modules, "my_driver", module)
    exec(compile(source[1], "my_driver.py", "exec"), module.__dict__)
    point = EntryPoint("mine", "my_driver:DRIVER", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])


@pytest.mark.usefixtures("skeleton")
def test_the_skeleton_has_every_call_of_the_core(tmp_path: Path) -> None:
    hypervisor = registry.load("mine").open(DriverContext(tmp_path))
    calls = {
        name: call for name, call in inspect.getmembers(Hypervisor, inspect.isfunction) if not name.startswith("_")
    }
    assert "start" in calls
    for name, call in calls.items():
        there = getattr(type(hypervisor), name)
        assert list(inspect.signature(there).parameters) == list(inspect.signature(call).parameters), name
    registry.check_parts(hypervisor)


@pytest.mark.usefixtures("skeleton")
def test_the_skeleton_passes_the_checks_that_the_page_says(tmp_path: Path) -> None:
    context = DriverContext(tmp_path)
    driver = registry.load("mine")
    bench = Bench("mine", driver, context, Setup(tmp_path), driver.probe(context))
    for name in ("statement.info", "statement.parts", "statement.probe", "statement.options"):
        (result,) = run_checks(bench, name)
        assert (result.outcome, result.detail) == (Outcome.OK, "")
    bench.close()


def test_the_skeleton_installs(tmp_path: Path) -> None:
    """Its pyproject.toml and its module make a package with the driver's entry point."""
    text = PAGE.read_text()
    for marker, name in (("pyproject", "pyproject.toml"), ("skeleton", "my_driver.py")):
        source = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", text, re.DOTALL)
        assert source
        (tmp_path / name).write_text(source[1])
    argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*argv, "--target", tmp_path / "site", tmp_path], check=True, capture_output=True)
    assert (tmp_path / "site" / "my_driver.py").exists()
    (points,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "mine = my_driver:DRIVER" in points.read_text()


def test_the_support_page_is_what_the_drivers_state() -> None:
    drivers = {"libvirt": registry.load("libvirt").info, "nspawn": nspawn_driver.INFO, "qemu": qemu_driver.INFO}
    assert support_matrix(drivers) in (PAGE.parent / "driver-support.md").read_text()


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE.read_text())
    assert len(links) > 5
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
