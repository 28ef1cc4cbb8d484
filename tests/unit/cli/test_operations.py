"""Long-running work: followed, left alone, cancelled, failed."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess

import pytest
from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import vm_pb2
from ostler_common.errors import ResourceExhaustedError, UnavailableError
from ostler_control.cli import waiting

from tests.fakes.control import Control
from tests.unit.cli.conftest import PROGRAM, Ostler

CREATE = ("vm", "create", "web-1", "--template", "debian-13", "--offering", "small")


def test_waits_and_prints_the_object(control: Control, ostler: Ostler) -> None:
    result = ostler(*CREATE, "--root-size", "20GiB", "--nic", "br0,mac=52:54:00:00:00:01", "--nic", "br1")
    assert result.exit_code == 0
    assert "web-1" in result.stdout
    assert "running" in result.stdout
    assert result.stderr == "vm.create web-1: placing\nvm.create web-1: copying template\n"
    [request] = control.asked
    assert isinstance(request, vm_pb2.CreateVmRequest)
    assert request.root_size_bytes == 20 << 30
    assert [(nic.network, nic.mac) for nic in request.nics] == [("br0", "52:54:00:00:00:01"), ("br1", "")]
    assert len(request.request_id) == 36


def test_json_of_a_finished_operation_is_the_object(control: Control, ostler: Ostler) -> None:
    assert json.loads(ostler(*CREATE, "-o", "json").stdout)["name"] == "web-1"


def test_no_wait_prints_the_id(control: Control, ostler: Ostler) -> None:
    result = ostler(*CREATE, "--no-wait", "--request-id", "r-1")
    assert (result.exit_code, result.stdout) == (0, "op-1\n")
    assert not control.waiting.is_set()
    assert control.asked[0].request_id == "r-1"  # type: ignore[attr-defined]


def test_dry_run_only_checks(control: Control, ostler: Ostler) -> None:
    result = ostler(*CREATE, "--dry-run")
    assert result.stdout == "vm.create web-1 would be accepted: placing. Nothing was changed.\n"
    assert control.asked[0].validate_only  # type: ignore[attr-defined]
    assert not control.waiting.is_set()


def test_failure_of_the_operation_is_the_command_s(control: Control, ostler: Ostler) -> None:
    control.outcome = ResourceExhaustedError("no host fits: 3 lack volume encryption", "NO_FEASIBLE_HOST")
    result = ostler(*CREATE)
    assert result.exit_code == 7
    assert result.stdout == ""
    assert "Error: no host fits: 3 lack volume encryption [NO_FEASIBLE_HOST]\n  operation: op-1\n" in result.stderr
    assert "ostler vm hosts" in result.stderr


def test_deleted(control: Control, ostler: Ostler) -> None:
    assert ostler("vm", "delete", "web-1", "--yes").stdout == "vm web-1 is deleted\n"


def test_operation_list(control: Control, ostler: Ostler) -> None:
    result = ostler("operation", "list", "--resource", "9d1b", "--state", "running")
    assert control.asked == [lro.ListOperationsRequest(filter="resource=9d1b AND state=RUNNING", page_size=100)]
    assert "10% placing" in result.stdout


def test_operation_wait_takes_up_again(control: Control, ostler: Ostler) -> None:
    result = ostler("operation", "wait", "op-1")
    assert result.exit_code == 0
    assert "succeeded" in result.stdout


def test_a_control_plane_that_restarts_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stub:
        answers = [UnavailableError("it restarts", "RPC"), lro.Operation(name="op-1", done=True)]

        def WaitOperation(self, request: lro.WaitOperationRequest, timeout: float) -> lro.Operation:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    done = waiting.follow(Stub(), lro.Operation(name="op-1"))
    assert done.done
    assert "retrying" in capsys.readouterr().err


def interrupt(control: Control, environment: dict[str, str], answer: bytes) -> tuple[int, str]:
    """`ostler vm create` on a terminal, with Ctrl-C once it waits: the exit code and what the terminal showed."""
    control.forever = True
    main, side = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *CREATE],
        stdin=side,
        stdout=side,
        stderr=side,
        env={**environment, "COLUMNS": "80"},
        start_new_session=True,
    )
    os.close(side)
    assert control.waiting.wait(20)
    process.send_signal(signal.SIGINT)
    shown, asked = b"", False
    while select.select([main], [], [], 20)[0]:
        try:
            shown += os.read(main, 4096)
        except OSError:  # the last one has hung up
            break
        if not asked and b"[y/N]" in shown:
            asked = True
            os.write(main, answer)
    os.close(main)
    return process.wait(20), shown.decode()


def test_ctrl_c_and_yes_cancels(control: Control, environment: dict[str, str]) -> None:
    code, shown = interrupt(control, environment, b"y\n")
    assert code == 9
    assert control.cancelled
    assert "vm.create was cancelled [CANCELLED]" in shown


def test_ctrl_c_and_no_leaves_it_running(control: Control, environment: dict[str, str]) -> None:
    code, shown = interrupt(control, environment, b"n\n")
    assert code == 130
    assert not control.cancelled
    assert "ostler operation wait op-1" in shown
    assert "placing" in shown  # the bar showed the phase
