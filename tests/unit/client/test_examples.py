"""The programs in examples/ do what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import hcl2
import pytest
from google.longrunning import operations_pb2  # noqa: F401  # so that the pool knows it
from google.protobuf import descriptor_pool, json_format, message_factory
from ostler.client import profile as profiles
from ostler.control.v1 import vm_pb2
from ostler.control.v1.event_pb2 import Event
from ostler_common.errors import ResourceExhaustedError

from tests.fakes.control import Control, at
from tests.unit.client import go_example

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def environment(canned: tuple[Control, Path]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OSTLER_PROFILE": str(canned[1])}


@pytest.fixture
def stopped(control: Control) -> Control:
    """web-2 and web-3 are stopped; an operation ends with web-1, which is on h2."""
    for name in ("web-2", "web-3"):
        control.vms[name].state = vm_pb2.Vm.STOPPED
        control.vms[name].id = name
    return control


def started(control: Control) -> list[str]:
    return [request.vm for request in control.asked if isinstance(request, vm_pb2.StartVmRequest)]


def python(name: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "python" / name), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_python_starts_vms(stopped: Control, environment: dict[str, str]) -> None:
    done = python("start_vms.py", "env=prod", environment=environment)
    assert (done.returncode, done.stdout) == (0, "web-1 runs on h2\n" * 2), done.stderr
    assert started(stopped) == ["web-2", "web-3"]


def test_python_tells_the_reason_of_a_failure(stopped: Control, environment: dict[str, str]) -> None:
    stopped.outcome = ResourceExhaustedError("no host fits", "NO_FEASIBLE_HOST")
    done = python("start_vms.py", "env=prod", environment=environment)
    assert (done.returncode, done.stderr) == (1, "no host fits [NO_FEASIBLE_HOST]\n")


def test_python_watches_failures(control: Control, environment: dict[str, str]) -> None:
    command = [sys.executable, str(EXAMPLES / "python" / "watch_failures.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        try:
            later = at(10**9)  # after the watch began, whenever that is
            for sequence, outcome in ((10**6, Event.SUCCEEDED), (10**6 + 1, Event.FAILED)):
                event = Event(id=str(sequence), sequence=sequence, time=later, type="vm.start", outcome=outcome)
                event.resource_name = "web-1"
                event.message = "no host fits"
                control.events.insert(0, event)
            assert watching.stdout is not None
            line = watching.stdout.readline()
        finally:
            watching.kill()
    assert line == f"{later.ToJsonString()} vm.start web-1: no host fits\n"


@pytest.mark.slow
def test_go_starts_vms(stopped: Control, canned: tuple[Control, Path]) -> None:
    program = go_example.program()
    profile = profiles.load(canned[1])
    files = ["-ca", str(profile.ca), "-certificate", str(profile.certificate), "-key", str(profile.key)]
    command = [str(program), "-address", profile.control_address, *files, "env=prod"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "web-2 runs on h2\nweb-3 runs on h2\n"), done.stderr
    assert started(stopped) == ["web-2", "web-3"]
    stopped.outcome = ResourceExhaustedError("no host fits", "NO_FEASIBLE_HOST")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "no host fits [NO_FEASIBLE_HOST]\n")


def test_grpcurl_calls_are_of_the_api() -> None:
    """No registry that the tests use has grpcurl, so its calls are held against the API's descriptors instead."""
    text = (EXAMPLES / "grpcurl" / "start-vm.sh").read_text()
    calls = re.findall(r'^(?:\w+=\$\()?call(?: -d (.+?))? "\$ADDRESS" (\S+?)(?: (\S+))?(?: \|.*)?$', text, re.M)
    assert len(calls) == text.count('"$ADDRESS"')
    pool = descriptor_pool.Default()
    for body, target, argument in calls:
        if target == "list":
            continue
        if target == "describe":
            pool.FindServiceByName(argument)
            continue
        service, _, method = target.partition("/")
        found = pool.FindServiceByName(service).methods_by_name[method]
        request = message_factory.GetMessageClass(found.input_type)()
        json_format.Parse("".join(shlex.split(body)), request)


def test_opentofu_reads_a_vm_as_strings(control: Control, environment: dict[str, str], tmp_path: Path) -> None:
    """OpenTofu itself is in no registry that the tests use; this is the protocol of its `external` data source."""
    ostler = tmp_path / "ostler"
    code = "from ostler_control.cli.main import main; main()"
    ostler.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    ostler.chmod(0o700)
    control.vms["web-1"].nics.add(network="lan", addresses=["192.0.2.10/24"])
    environment = {**environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    query = json.dumps({"name": "web-1"})
    command = [EXAMPLES / "opentofu" / "ostler-vm"]
    done = subprocess.run(command, input=query, env=environment, check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    assert all(isinstance(value, str) for value in answer.values())
    assert answer["host_name"] == "h2"
    assert json.loads(answer["nics"])[0]["addresses"] == ["192.0.2.10/24"]


def test_opentofu_s_file_parses() -> None:
    with (EXAMPLES / "opentofu" / "main.tf").open() as file:
        read = hcl2.load(file)
    assert {kind.strip('"') for resource in read["resource"] for kind in resource} == {"random_uuid", "terraform_data"}
